"""Why a model answered what it answered, as a method tells it, and whether that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from imaging_ai.core.finding import ParametricMap, Picture

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A map of what made a finding or an evaluation, known by its tracking UID.

    `slices` are those of the grid that weigh most, the heaviest first; `pictures` show some of them. `checks` are
    numbers by name, `trusted` says what they come to, None where nothing was checked. `parameters` say how it was made.
    """

    tracking_uid: str
    tracking_identifier: str
    method: str
    map: ParametricMap
    slices: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()
    checks: Mapping[str, float] = field(default_factory=dict)
    trusted: bool | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def as_tree(self) -> dict[str, object]:
        """Say it without the map in what JSON is made of."""
        return {
            "of": self.tracking_identifier,
            "tracking_uid": self.tracking_uid,
            "method": self.method,
            "parameters": dict(self.parameters),
            "checks": {name: round(value, 4) for name, value in self.checks.items()},
            "trusted": self.trusted,
            "slices": [k + 1 for k in self.slices],
        }
