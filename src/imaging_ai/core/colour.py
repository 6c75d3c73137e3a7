"""Display colours: CIELab as segments have it (PS3.3 C.10.7.1.1), and as screens show it (IEC 61966-2-1, sRGB)."""

from __future__ import annotations

import numpy as np

__all__ = ["DISPLAY_COLOURS", "srgb_of"]

#: Colours (CIELab) for models that name none: far from each other and from grey.
DISPLAY_COLOURS = (
    (54.0, 81.0, 70.0),
    (62.0, 18.0, -66.0),
    (88.0, -79.0, 81.0),
    (97.0, -16.0, 93.0),
    (60.0, 94.0, -60.0),
    (91.0, -51.0, -15.0),
    (72.0, 32.0, 78.0),
    (45.0, 60.0, -85.0),
)

_WHITE = (0.95047, 1.0, 1.08883)  # D65, as the viewers take it (highdicom, dcmjs)
_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])


def srgb_of(cielab: tuple[float, float, float]) -> tuple[int, int, int]:
    """Convert CIELab (L from 0 to 100) to red, green and blue from 0 to 255."""
    lightness, a, b = cielab
    y = (lightness + 16) / 116
    ratios = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * _WHITE
    linear = np.clip(_TO_RGB @ xyz, 0, 1)
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return round(255 * red), round(255 * green), round(255 * blue)
