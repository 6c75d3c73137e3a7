"""ICC profiles of rendered images (PS3.18 8.3.5.1.5): the source's own, sRGB, Adobe RGB (1998), ROMM RGB.

The two that no library brings are made here, as matrix profiles of version 2 (ICC.1:2001-04).
"""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from imaging_ai.errors import NotAcceptable
from imaging_ai.render.elements import items
from imaging_ai.render.source import Source
from imaging_ai.render.wish import IccProfile, Picture

__all__ = ["in_profile", "matrix_profile"]

#: Name, gamma, and the columns of the matrix to XYZ at D50: red, green, blue.
_ADOBE_RGB = (
    "Adobe RGB (1998)",
    563 / 256,
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
)
_ROMM_RGB = ("ROMM RGB", 1.8, ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)))
_D50 = (0.9642, 1.0, 0.8249)

Xyz = tuple[float, float, float]


def in_profile(picture: Picture, source: Source, wanted: IccProfile) -> tuple[Picture, bytes]:
    """Return the picture in the colours of the profile that is wanted, and the profile; none where none is.

    Raises
    ------
    NotAcceptable
        If the profile of the instance cannot be used.
    """
    if wanted in ("", "no"):
        return picture, b""
    own = _own_profile(source) if picture.ndim == 3 else b""
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=-1)
    if wanted == "yes":
        return picture, own or _srgb()
    target = _srgb() if wanted == "srgb" else matrix_profile(*(_ADOBE_RGB if wanted == "adobergb" else _ROMM_RGB))
    try:
        converted = ImageCms.profileToProfile(Image.fromarray(picture), BytesIO(own or _srgb()), BytesIO(target))
    except (ImageCms.PyCMSError, OSError) as error:
        raise NotAcceptable("the ICC profile of the instance cannot be used") from error
    return np.asarray(converted), target


def _own_profile(source: Source) -> bytes:
    """Return the ICC Profile (0028,2000) of the image or of its first optical path."""
    for elements in (source.elements, *items(source.elements, "OpticalPathSequence")[:1]):
        if data := source.bytes_of(elements, "ICCProfile"):
            return data
    return b""


def _srgb() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return bytes(profile.tobytes())


def matrix_profile(name: str, gamma: float, primaries: tuple[Xyz, Xyz, Xyz]) -> bytes:
    """Return an RGB display profile of three primaries and a gamma."""
    ascii_name = name.encode() + b"\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(ascii_name)) + ascii_name + bytes(4 + 4 + 2 + 1 + 67)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0No copyright\0", b"wtpt": _xyz(_D50)}
    tags |= {letter + b"XYZ": _xyz(one) for letter, one in zip((b"r", b"g", b"b"), primaries, strict=True)}
    tags |= {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for signature, data in tags.items():
        table += signature + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    head = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head += bytes(28) + b"".join(_fixed(value) for value in _D50) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _xyz(value: Xyz) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(one) for one in value)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
