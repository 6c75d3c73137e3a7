"""`[[segments]]`: what the labels of a segmenter mean, and `[measurements]`: what is measured of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from imaging_ai.catalog.metadata import network_format
from imaging_ai.catalog.table import Byte, Hex, Table, Triple
from imaging_ai.core.finding import Code, SegmentDescription

__all__ = ["Measurements", "Segment", "description_of", "segments_from"]

TISSUE = Code("85756007", "SCT", "Tissue")
_BACKGROUND = frozenset({"background", "bg", "other"})
_Quantity = Literal["volume", "mean", "sd", "min", "max", "peak", "long_axis"]


class Segment(Table, frozen=True):
    """A label, or a channel where channels overlap, and what it stands for."""

    value: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    property_category: Triple | None = None
    property_type: Triple | None = None
    anatomic_region: Triple | None = None
    color: Hex | tuple[Byte, Byte, Byte] | None = None
    min_volume_ml: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Measurements(Table, frozen=True):
    """What to report of a finding, and whether each lesion is a finding of its own."""

    report: tuple[_Quantity, ...] = ("volume", "mean", "sd", "max", "long_axis")
    instances: Literal["label", "components"] = "label"
    max_findings: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


def segments_from(metadata: dict[str, Any]) -> tuple[Segment, ...]:
    """Name the segments by `channel_def`; channel 0 is left out when it is the background."""
    channels = network_format(metadata, "outputs").get("channel_def")
    if not isinstance(channels, dict):
        return ()
    named = {int(key): str(label) for key, label in channels.items() if str(key).isdigit()}
    found = {value: label for value, label in named.items() if label.strip().lower() not in _BACKGROUND}
    if len(named) == 1 and found:  # a lone foreground channel comes out as the label 1
        found = {1: next(iter(found.values()))}
    return tuple(Segment(value=value, label=label[:64] or f"{value}") for value, label in sorted(found.items()))


def description_of(segment: Segment) -> SegmentDescription:
    region = segment.anatomic_region
    return SegmentDescription(
        label=segment.label,
        property_category=Code(*segment.property_category) if segment.property_category else TISSUE,
        property_type=Code(*segment.property_type) if segment.property_type else TISSUE,
        anatomic_region=Code(*region) if region else None,
        cielab=_cielab(segment.color) if segment.color is not None else None,
        min_volume_ml=segment.min_volume_ml,
    )


def _cielab(color: str | tuple[int, int, int]) -> tuple[float, float, float]:
    """Convert sRGB to CIELab under D65, the white point of the viewers (highdicom, dcmjs)."""
    rgb = tuple(bytes.fromhex(color[1:])) if isinstance(color, str) else color
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.95047, 1.0, 1.08883)
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) / w for row, w in zip(to_xyz, white, strict=True)]
    x, y, z = (v ** (1 / 3) if v > (6 / 29) ** 3 else v * (29 / 6) ** 2 / 3 + 4 / 29 for v in xyz)
    return max(0.0, 116 * y - 16), 500 * (x - y), 200 * (y - z)
