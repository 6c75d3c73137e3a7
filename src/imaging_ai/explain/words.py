"""Attributions on the source's grid to what viewers show and reports refer to: maps, words, pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imaging_ai.catalog.explaining import Method
from imaging_ai.core.explanation import Explanation
from imaging_ai.core.finding import Code, Finding, ParametricMap
from imaging_ai.core.volume import Volume
from imaging_ai.explain.pictures import explained_slices

__all__ = ["TRUSTED_MARGIN", "UNTRAINED_MOST", "described", "heaviest", "legend"]

#: What a map must gain over chance, in probability, before it counts as one of what the network uses.
TRUSTED_MARGIN = 0.05
#: How alike the map may be to that of a network that has forgotten everything, by the correlation of ranks.
UNTRAINED_MOST = 0.5
_MOST_SLICES, _MOST_PICTURES = 5, 3
_NO_UNIT = Code("1", "UCUM", "no units")
_CAM = Code("130403", "DCM", "Gradient-weighted class activation")
_SALIENCY = Code("130404", "DCM", "Saliency")
#: Of each method: what it maps (CID 7180), its name, the paper, and a name for the series.
_METHODS: Mapping[Method, tuple[Code, str, str, str]] = {
    "grad-cam": (_CAM, "Grad-CAM", "Selvaraju et al. 2017", "grad-cam"),
    "guided-grad-cam": (_CAM, "Guided Grad-CAM", "Selvaraju et al. 2017", "guided-cam"),
    "integrated-gradients": (_SALIENCY, "Integrated gradients", "Sundararajan et al. 2017", "integrated"),
    "occlusion": (_SALIENCY, "Occlusion", "Zeiler and Fergus 2014", "occlusion"),
}


def described(
    values: NDArray[np.float32],
    method: Method,
    number: int,
    *,
    of: tuple[str, str],
    target: str,
    checks: Mapping[str, float],
    parameters: Mapping[str, str],
    volume: Volume,
    finding: Finding | None,
    heading: str,
) -> Explanation:
    """Describe an attribution ``[slice, row, column]`` of what has the tracking identifier and UID `of`.

    It is scaled to at most 1, so that viewers show all of them alike; the derivation says by what.
    """
    identifier, uid = of
    quantity, name, paper, short = _METHODS[method]
    most = float(np.abs(values).max(initial=0)) or 1.0
    limits = (-1.0 if values.min(initial=0) < 0 else 0.0, 1.0)
    trusted = _faithful(checks) and _learned(checks) if "margin" in checks or "untrained" in checks else None
    told = "; ".join(f"{key} {value}" for key, value in parameters.items())
    mapped = ParametricMap(
        name=f"{short} {number}",
        values=np.clip(values / most, *limits).astype(np.float32),
        limits=limits,
        quantity=quantity,
        unit=_NO_UNIT,
        description=f"{name} of {identifier}"[:64],
        derivation=f"{name} ({paper}) of {target}; {told}; 1 in the map is {most:.4g}; {' '.join(legend(checks))}",
    )
    slices = heaviest(mapped.values)
    shown = explained_slices(volume, mapped, slices[:_MOST_PICTURES], heading, legend(checks), finding)
    return Explanation(uid, identifier, method, mapped, slices, shown, checks, trusted, parameters)


def heaviest(values: NDArray[np.float32]) -> tuple[int, ...]:
    """Return the slices that weigh most, the heaviest first."""
    weight = np.abs(values).sum(axis=(1, 2), dtype=np.float64)
    return tuple(int(k) for k in np.argsort(-weight, kind="stable")[:_MOST_SLICES] if weight[k] > 0)


def legend(checks: Mapping[str, float]) -> list[str]:
    """Say in a few lines what was checked."""
    lines = []
    if "margin" in checks:
        verdict = "it marks what the network uses" if _faithful(checks) else "no better than chance: do not rely on it"
        lines.append(
            f"Insertion {checks['insertion']:.2f} (chance {checks['insertion by chance']:.2f}), deletion "
            f"{checks['deletion']:.2f} (chance {checks['deletion by chance']:.2f}): {verdict}."
        )
    if "completeness error" in checks:
        lines.append(f"Completeness error {checks['completeness error']:.1%}.")
    if "untrained" in checks:
        verdict = "it shows what was learned" if _learned(checks) else "it shows the image more than what was learned"
        lines.append(f"Correlation with the map of an untrained network {checks['untrained']:.2f}: {verdict}.")
    return lines or ["Not checked."]


def _faithful(checks: Mapping[str, float]) -> bool:
    return checks.get("margin", 1.0) > TRUSTED_MARGIN


def _learned(checks: Mapping[str, float]) -> bool:
    return abs(checks.get("untrained", 0.0)) < UNTRAINED_MOST
