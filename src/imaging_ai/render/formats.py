"""Pictures as files: JPEG, PNG, GIF (moving, where there are several) and JPEG 2000 (PS3.18 table 8.7.4-1)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

__all__ = ["FORMATS", "encode", "encode_moving"]

DEFAULT_QUALITY = 90
_GIF = "image/gif"

#: Media type -> its name in Pillow.
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", _GIF: "GIF", "image/jp2": "JPEG2000"}


def encode(picture: Image.Image, media_type: str, *, quality: int | None = None, icc_profile: bytes = b"") -> bytes:
    """Return a picture as a file of `media_type`; `quality` counts for JPEG, and for JPEG 2000, else lossless."""
    options: dict[str, Any] = {}
    if media_type == "image/jpeg":
        level = quality or DEFAULT_QUALITY
        whole_colours = level >= DEFAULT_QUALITY
        if not icc_profile:  # other threads may run meanwhile, as they may not with Pillow
            return bytes(
                imagecodecs.jpeg_encode(np.asarray(picture), level, subsampling="444" if whole_colours else "420")
            )
        options = {"quality": level, "subsampling": 0 if whole_colours else 2}
    elif media_type == "image/png":
        options = {"compress_level": 2}
    elif media_type == "image/jp2" and quality is not None and quality < 100:
        options = {"irreversible": True, "quality_mode": "dB", "quality_layers": [30 + quality * 0.3]}
    if icc_profile:
        options["icc_profile"] = icc_profile
    file = BytesIO()
    picture.save(file, FORMATS[media_type], **options)
    return file.getvalue()


def encode_moving(pictures: Iterator[Image.Image], milliseconds: float) -> bytes:
    """Return pictures as one GIF that shows each for a time, over and over."""
    file = BytesIO()
    first = next(pictures)
    first.save(file, "GIF", save_all=True, append_images=pictures, duration=max(20, round(milliseconds)), loop=0)
    return file.getvalue()
