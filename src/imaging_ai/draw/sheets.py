"""Sheets: panels beside each other or in rows, a title above, a legend and the notice below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from imaging_ai.draw.style import BACKGROUND, LINE, MARGIN, NOTICE, TEXT, WARNING, Colour, font

__all__ = ["sheet"]


def sheet(
    panels: Sequence[Image.Image],
    title: str,
    lines: Sequence[tuple[str, Colour]],
    most_lines: int,
    *,
    side: int,
    columns: int = 0,
) -> NDArray[np.uint8]:
    """Put panels side by side, `columns` in a row, and at most `most_lines` lines in their colours below; RGB.

    Room is left for all of these lines and for panels `side` pixels high, so that the sheets of a series are of one
    size where their panels are.
    """
    across = columns or max(1, len(panels))
    rows = [panels[first : first + across] for first in range(0, len(panels), across)]
    width = max([side + 2 * MARGIN, *(sum(one.width + MARGIN for one in row) + MARGIN for row in rows)])
    top = LINE + MARGIN
    below = top + max(1, len(rows)) * (side + MARGIN)
    drawn = Image.new("RGB", (width, below + (most_lines + 1) * LINE + MARGIN), BACKGROUND)
    draw, text_font = ImageDraw.Draw(drawn), font(14)
    draw.text((MARGIN, 6), title, fill=TEXT, font=text_font)
    for number, row in enumerate(rows):
        left = MARGIN
        for panel in row:
            drawn.paste(panel, (left, top + number * (side + MARGIN)))
            left += panel.width + MARGIN
    for number, (line, colour) in enumerate(lines[:most_lines]):
        draw.text((MARGIN, below + number * LINE), line, fill=colour, font=text_font)
    draw.text((MARGIN, below + most_lines * LINE), NOTICE, fill=WARNING, font=text_font)
    return np.asarray(drawn)
