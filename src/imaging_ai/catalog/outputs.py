"""`[outputs]`: which objects are made of a result."""

from __future__ import annotations

import msgspec

from imaging_ai.catalog.table import Table
from imaging_ai.core.finding import ResultKind, SegmentationType

__all__ = ["Outputs"]


class Outputs(Table, frozen=True):
    """Which objects are made of a result; `lines` asks for a second SR with each diameter as a line.

    `segmentation` is the type of the SEG. Fractional ones have the probability of a model's only segment, and few
    viewers show them (OHIF does not); of segments that overlap there is no label map, they stay binary.
    """

    kinds: tuple[ResultKind, ...] = ("SEG", "SR")
    lines: bool = False
    report_refusals: bool = False
    segmentation: SegmentationType = "binary"

    def __post_init__(self) -> None:
        """Refuse what would leave nothing, or nothing that says what was found."""
        if "SR" not in self.kinds:
            raise ValueError("kinds: SR is missing; it alone says what was looked for and not found")

    @property
    def probability(self) -> bool:
        """Whether any of them needs the probability of each voxel."""
        return "PM" in self.kinds or self.segmentation == "fractional"

    def without_segments(self) -> Outputs:
        """Return what is left where nothing is segmented."""
        return msgspec.structs.replace(self, kinds=tuple(kind for kind in self.kinds if kind != "SEG"), lines=False)

    def of_boxes(self) -> Outputs:
        """Return what is left where boxes are found: there are neither masks nor maps of them."""
        kinds = tuple(kind for kind in self.kinds if kind not in ("SEG", "PM"))
        return msgspec.structs.replace(self, kinds=kinds, segmentation="binary")
