"""`[explain]`: whether and how a model's answers are explained (docs/explanations.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from imaging_ai.catalog.table import Table
from imaging_ai.errors import ConfigError

__all__ = ["METHODS", "Check", "Explaining", "Method"]

Method = Literal["grad-cam", "guided-grad-cam", "integrated-gradients", "occlusion"]
Check = Literal["faithfulness", "randomization"]
METHODS: tuple[Method, ...] = ("grad-cam", "guided-grad-cam", "integrated-gradients", "occlusion")


class Explaining(Table, frozen=True):
    """How answers are explained; by default not at all.

    `layer` is the one that Grad-CAM looks at, by its name in the network; `steps` are the points on the path of
    integrated gradients, `occlusions` the patches that occlusion covers. `baseline` stands for "nothing there".
    `memory_gb` bounds what a batch of passes may take. `targets` are the labels to explain, all when empty, or the
    tracking identifiers. `instances` explains each image that a classifier speaks of by itself, and not the series.
    """

    methods: tuple[Method, ...] = ()
    when: Literal["present", "always", "never"] = "present"
    max_findings: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    layer: str = ""
    baseline: Literal["minimum", "mean", "blur"] = "minimum"
    steps: Annotated[int, msgspec.Meta(ge=4, le=1000)] = 24
    occlusions: Annotated[int, msgspec.Meta(ge=8, le=10_000)] = 64
    checks: tuple[Check, ...] = ("faithfulness",)
    kinds: tuple[Literal["PM", "SC", "KO"], ...] = ("PM", "SC", "KO")
    targets: tuple[str, ...] = ()
    instances: bool = False
    memory_gb: Annotated[float, msgspec.Meta(gt=0)] = 3.0

    @property
    def wanted(self) -> bool:
        """Whether anything is explained."""
        return bool(self.methods) and self.when != "never"

    def asked(self, wish: object) -> Explaining:
        """Return it as a rule's `parameters = { explain = … }` asks: true, false, a list of methods, or all of it anew.

        Raises
        ------
        ConfigError
            If the wish is something else.
        """
        if wish is None:
            return self
        if isinstance(wish, Explaining):
            return wish
        if wish is False:
            return msgspec.structs.replace(self, when="never")
        usual = "present" if self.when == "never" else self.when
        if wish is True:
            return msgspec.structs.replace(self, when=usual, methods=self.methods or METHODS[:1])
        if isinstance(wish, Sequence) and not isinstance(wish, str) and wish and all(one in METHODS for one in wish):
            return msgspec.structs.replace(self, when=usual, methods=tuple(wish))
        raise ConfigError(f"explain = {wish!r} is neither true, false nor a list of {', '.join(METHODS)}")
