"""`[outputs]`: which objects are made of a result."""

from __future__ import annotations

import msgspec

from imaging_ai.catalog.table import Table
from imaging_ai.core.finding import ResultKind

__all__ = ["Outputs"]


class Outputs(Table, frozen=True):
    """Which objects are made of a result; `lines` asks for a second SR with each diameter as a line."""

    kinds: tuple[ResultKind, ...] = ("SEG", "SR")
    lines: bool = False

    def __post_init__(self) -> None:
        """Refuse what would leave nothing, or nothing that says what was found."""
        if "SR" not in self.kinds:
            raise ValueError("kinds: SR is missing; it alone says what was looked for and not found")

    def without_segments(self) -> Outputs:
        """Return what is left where nothing is segmented."""
        return msgspec.structs.replace(self, kinds=tuple(kind for kind in self.kinds if kind != "SEG"), lines=False)
