"""Pictures as files: JPEG, PNG, GIF (moving, where there are several) and JPEG 2000 (PS3.18 table 8.7.4-1)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from io import BytesIO
from typing import Any

from PIL import Image

from imaging_ai.render.jpeg import encode_jpeg
from imaging_ai.render.wish import Picture

__all__ = ["FORMATS", "encode", "encode_moving"]

DEFAULT_QUALITY = 90
_GIF = "image/gif"

#: Media type -> its name in Pillow.
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", _GIF: "GIF", "image/jp2": "JPEG2000"}


def encode(
    picture: Picture,
    media_type: str,
    *,
    quality: int | None = None,
    icc_profile: bytes = b"",
    threads: Executor | None = None,
    at_once: int = 1,
) -> bytes:
    """Return a picture as a file of `media_type`; `quality` counts for JPEG, and for JPEG 2000, else lossless.

    With `threads`, `at_once` parts of a JPEG are encoded at the same time.
    """
    level = quality or DEFAULT_QUALITY
    whole_colours = level >= DEFAULT_QUALITY
    if media_type == "image/jpeg" and not icc_profile:  # other threads run meanwhile, as they cannot with Pillow
        return encode_jpeg(picture, level, "444" if whole_colours else "420", threads, at_once)
    options: dict[str, Any] = {"icc_profile": icc_profile} if icc_profile else {}
    if media_type == "image/jpeg":
        options |= {"quality": level, "subsampling": 0 if whole_colours else 2}
    elif media_type == "image/png":
        options |= {"compress_level": 2}
    elif media_type == "image/jp2" and level < 100 and quality is not None:
        options |= {"irreversible": True, "quality_mode": "dB", "quality_layers": [30 + level * 0.3]}
    file = BytesIO()
    Image.fromarray(picture).save(file, FORMATS[media_type], **options)
    return file.getvalue()


def encode_moving(pictures: Iterator[Picture], milliseconds: float) -> bytes:
    """Return pictures as one GIF that shows each for a time, over and over."""
    file = BytesIO()
    first, others = Image.fromarray(next(pictures)), (Image.fromarray(one) for one in pictures)
    first.save(file, "GIF", save_all=True, append_images=others, duration=max(20, round(milliseconds)), loop=0)
    return file.getvalue()
