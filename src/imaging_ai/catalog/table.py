"""What the tables of `dicom.toml` are made of."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["Byte", "Hex", "Label", "Range", "Table", "Triple"]

#: A coded concept: value, scheme designator, meaning.
Triple = tuple[str, str, str]
Range = tuple[float, float]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Hex = Annotated[str, msgspec.Meta(pattern=r"^#[0-9a-fA-F]{6}$")]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of `dicom.toml`; a key that it does not know is an error."""
