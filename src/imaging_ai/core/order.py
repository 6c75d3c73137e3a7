"""The order of search results: the newest study date first, and within a day the study that came last.

A study's sort key is its date, as a number, before the id of its row; so a range of days is a range of keys. Undated
studies come last.
"""

from __future__ import annotations

import re

__all__ = ["day_key"]

_DATE = re.compile(r"[0-9]{8}|[0-9]{4}\.[0-9]{2}\.[0-9]{2}")  # PS3.5 6.2: DA, and its form before DICOM
_BITS_OF_ID = 32


def day_key(study_date: str) -> int:
    """Return what the sort keys of the studies of a day begin with, to be added to the id."""
    return int(study_date.replace(".", "")) << _BITS_OF_ID if _DATE.fullmatch(study_date) else 0
