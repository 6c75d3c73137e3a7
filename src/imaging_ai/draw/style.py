"""What all pictures have in common: colours, the font that comes with Pillow, distances in pixels."""

from __future__ import annotations

from PIL import ImageFont

__all__ = ["BACKGROUND", "LINE", "MARGIN", "NOTICE", "TEXT", "WARNING", "Colour", "font"]

Colour = tuple[int, int, int]

NOTICE = "AI result - not for diagnosis unless reviewed by a physician"

BACKGROUND: Colour = (16, 20, 24)
TEXT: Colour = (225, 230, 235)
WARNING: Colour = (255, 196, 0)
MARGIN, LINE = 10, 20


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of all text."""
    return ImageFont.load_default(size)
