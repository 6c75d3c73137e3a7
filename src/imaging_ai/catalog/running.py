"""`[run]`: how a model is run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from imaging_ai.catalog.table import Table

__all__ = ["RunOptions"]


class RunOptions(Table, frozen=True):
    """How a model is run; `overrides` takes the place of entries of the bundle's configuration, by their names."""

    queue: Literal["inference-cpu", "inference-gpu"] = "inference-cpu"
    time_limit: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    window_batch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool = True
    labels_first: bool = False
    config: str = ""
    weights: str = ""
    overrides: dict[str, Any] = msgspec.field(default_factory=dict)
