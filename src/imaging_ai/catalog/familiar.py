"""`[out_of_distribution]`: how unlike what the model was fitted on a series may be."""

from __future__ import annotations

from typing import Annotated

import msgspec

from imaging_ai.catalog.table import Table

__all__ = ["Familiarity"]

_Score = Annotated[float, msgspec.Meta(gt=0)]


class Familiarity(Table, frozen=True):
    """Where the statistics of the model's own features lie, and what is done with a series far from them.

    A score of 1 is as far as the farthest five in a hundred of the series that the statistics were made of, each left
    out in turn. `statistics` is a file of the bundle, made by `imaging-ai models fit`; without one nothing is scored.
    """

    statistics: str = ""
    note_above: _Score = 1.0
    refuse_above: _Score | None = None
