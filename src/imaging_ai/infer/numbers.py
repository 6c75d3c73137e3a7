"""Numbers of a data set as scanners write them: present, absent, or no number at all (PS3.5 VR DS, IS)."""

from __future__ import annotations

import math

from pydicom import Dataset
from pydicom.tag import TagType

__all__ = ["number", "positive"]


def number(ds: Dataset, attribute: TagType) -> float | None:
    """Return the value of an attribute: None when it has none, NaN when it is not one number."""
    try:
        value = ds[attribute].value if attribute in ds else None
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def positive(ds: Dataset, attribute: TagType) -> float:
    """Return the value of an attribute that means something only above zero; else 0."""
    value = number(ds, attribute)
    return value if value is not None and 0 < value < math.inf else 0.0
