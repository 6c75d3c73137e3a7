"""The models that are installed: what each accepts, what its output means, and the digest that pins it.

A model is a directory with a MONAI bundle and a `dicom.toml` (docs/models.md). Reading it needs neither
torch nor MONAI, so that the router and the front doors know the models without loading one.
Codes are those of PS3.16 (CID 7150 property category, CID 7151 property type, CID 7162 algorithm family).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from imaging_ai.core.finding import Algorithm, Code, ResultKind, SegmentDescription
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.matching import Conditions
from imaging_ai.errors import ConfigError, NotFound

__all__ = ["Catalog", "Limits", "Measurements", "ModelEntry", "Outputs", "RunOptions", "bundle_digest", "read_model"]

TISSUE = Code("85756007", "SCT", "Tissue")
_CONFIGS = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))
_BACKGROUND = frozenset({"background", "bg", "other"})

_Triple = tuple[str, str, str]
_Range = tuple[float, float]
_Quantity = Literal["volume", "mean", "sd", "min", "max", "peak", "long_axis"]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Hex = Annotated[str, msgspec.Meta(pattern=r"^#[0-9a-fA-F]{6}$")]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of `dicom.toml`."""


class _Model(_Table, frozen=True):
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    version: Annotated[str, msgspec.Meta(max_length=64)] = ""
    manufacturer: Annotated[str, msgspec.Meta(max_length=64)] = ""
    family: _Triple = ("123110", "DCM", "Artificial Intelligence")


class _Segment(_Table, frozen=True):
    value: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    property_category: _Triple | None = None
    property_type: _Triple | None = None
    anatomic_region: _Triple | None = None
    color: _Hex | tuple[_Byte, _Byte, _Byte] | None = None
    min_volume_ml: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Measurements(_Table, frozen=True):
    """What to report of a finding, and whether each lesion is a finding of its own."""

    report: tuple[_Quantity, ...] = ("volume", "mean", "sd", "max", "long_axis")
    instances: Literal["label", "components"] = "label"
    max_findings: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


class Limits(_Table, frozen=True):
    """Series that a model must not read; None where there is no limit."""

    min_slices: int | None = None
    max_slices: int | None = None
    min_coverage_mm: float | None = None
    slice_spacing_mm: _Range | None = None
    pixel_spacing_mm: _Range | None = None
    orientation: tuple[Literal["axial", "coronal", "sagittal"], ...] | None = None
    max_tilt_degrees: float | None = None
    unit: str | None = None


class Outputs(_Table, frozen=True):
    """Which objects are made of a result; `lines` asks for a second SR with each diameter as a line."""

    kinds: tuple[ResultKind, ...] = ("SEG", "SR")
    lines: bool = False

    def __post_init__(self) -> None:
        """Refuse what would leave nothing, or nothing that says what was found."""
        if "SR" not in self.kinds:
            raise ValueError("kinds: SR is missing; it alone says what was looked for and not found")


class RunOptions(_Table, frozen=True):
    """How a model is run."""

    queue: Literal["inference-cpu", "inference-gpu"] = "inference-cpu"
    time_limit: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    window_batch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    labels_first: bool = False
    config: str = ""
    weights: str = ""


class _DicomToml(_Table, frozen=True):
    model: _Model = _Model()
    accepts: dict[str, Any] = {}
    inputs: dict[str, dict[str, Any]] = {}
    segments: tuple[_Segment, ...] = ()
    measurements: Measurements = Measurements()
    outputs: Outputs = Outputs()
    refuse: Limits = Limits()
    run: RunOptions = RunOptions()


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One installed model.

    `segments` has the things that the model can find and `segment_values`, in the same order, the label
    (or the channel, from 0, where channels overlap) that stands for each. `inputs` is empty for a model
    of one series; otherwise it maps each channel's name to its conditions, in the order of the channels.
    """

    name: str
    version: str
    path: Path
    digest: str
    algorithm: Algorithm
    accepts: Conditions
    inputs: dict[str, Conditions]
    segments: tuple[SegmentDescription, ...]
    segment_values: tuple[int, ...]
    measurements: Measurements
    refuse: Limits
    run: RunOptions
    outputs: Outputs
    remarks: tuple[str, ...] = ()

    @property
    def queue(self) -> str:
        """The queue that its jobs wait in."""
        return self.run.queue

    @property
    def time_limit(self) -> float:
        """Seconds after which a run is given up."""
        return self.run.time_limit

    def missing(self) -> tuple[str, ...]:
        """Say, a sentence each, what a complete model has and this one has not."""
        return self.remarks


class Catalog:
    """The models below some folders; one installed while we run is seen at the next question."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: dict[Path, tuple[_Signature, ModelEntry]] = {}

    def names(self) -> tuple[str, ...]:
        """Name the installed models, in order."""
        return tuple(sorted(self._paths()))

    def get(self, name: str) -> ModelEntry:
        """Return the model `name` as it lies on disk now.

        Raises
        ------
        NotFound
            If no folder has it.
        ConfigError
            If its `dicom.toml` or its metadata cannot be used.
        """
        path = self._paths().get(name)
        if path is None:
            raise NotFound(f"no model {name!r}; installed: {', '.join(self.names()) or 'none'}")
        signature = _signature(path)
        known = self._read.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        entry = read_model(path)
        self._read[path] = (signature, entry)
        return entry

    def _paths(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder in self._folders:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if any((path / config).is_file() for config in (*_CONFIGS, "dicom.toml")):
                    found.setdefault(path.name, path)
        return found


def read_model(path: Path) -> ModelEntry:
    """Read the model in the directory `path`."""
    toml = path / "dicom.toml"
    described = _decode(toml) if toml.is_file() else _DicomToml()
    metadata = _metadata(path / "configs" / "metadata.json")
    segments = described.segments or _segments_from(metadata)
    values = tuple(segment.value for segment in segments)
    if len(set(values)) < len(values):
        raise ConfigError(f"{toml}: [[segments]] value: two segments have the same; give each its own")
    digest = bundle_digest(path)
    version = described.model.version or str(metadata.get("version", "0"))
    return ModelEntry(
        name=path.name,
        version=version,
        path=path,
        digest=digest,
        algorithm=Algorithm(
            name=described.model.name or path.name,
            version=version,
            manufacturer=described.model.manufacturer or str(metadata.get("authors", ""))[:64] or "unknown",
            family=Code(*described.model.family),
            digest=digest,
            device_uid=derive_uid("device", digest),
            parameters=_parameters(described),
        ),
        accepts=Conditions.parse(described.accepts or _modality(metadata), f"{toml}: [accepts]"),
        inputs={k: Conditions.parse(v, f"{toml}: [inputs.{k}]") for k, v in described.inputs.items()},
        segments=tuple(_description(segment) for segment in segments),
        segment_values=values,
        measurements=described.measurements,
        refuse=described.refuse,
        run=described.run,
        remarks=tuple(_remarks(path, described, metadata)),
        outputs=described.outputs,
    )


def bundle_digest(path: Path) -> str:
    """Return the SHA-256 over the names and bytes of all files of a bundle, in the order of their paths."""
    digest = hashlib.sha256()
    for name, file in _files(path):
        digest.update(f"{len(name)}:{name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


_Signature = tuple[tuple[str, int, int], ...]


def _signature(path: Path) -> _Signature:
    return tuple((name, s.st_mtime_ns, s.st_size) for name, file in _files(path) for s in (file.stat(),))


def _files(path: Path) -> list[tuple[str, Path]]:
    """List the files of a bundle by relative path; byte code that Python left behind is not part of it."""
    files = (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted((file.relative_to(path).as_posix(), file) for file in files)


def _decode(toml: Path) -> _DicomToml:
    try:
        return msgspec.toml.decode(toml.read_bytes(), type=_DicomToml)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{toml}: {error}; docs/models.md has the keys") from error


def _metadata(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{file}: {error}; it must be a JSON object") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a JSON object")
    return content


def _network_format(metadata: dict[str, Any], side: str) -> dict[str, Any]:
    """Return the first input or output of `network_data_format`, empty when metadata does not tell."""
    formats = metadata.get("network_data_format")
    named = formats.get(side) if isinstance(formats, dict) else None
    first = next(iter(named.values()), None) if isinstance(named, dict) else None
    return first if isinstance(first, dict) else {}


def _modality(metadata: dict[str, Any]) -> dict[str, Any]:
    modality = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT"}
    named = modality.get(str(_network_format(metadata, "inputs").get("modality", "")).upper())
    return {"Modality": named} if named else {}


def _segments_from(metadata: dict[str, Any]) -> tuple[_Segment, ...]:
    """Name the segments by `channel_def`; channel 0 is left out when it is the background."""
    channels = _network_format(metadata, "outputs").get("channel_def")
    if not isinstance(channels, dict):
        return ()
    named = {int(key): str(label) for key, label in channels.items() if str(key).isdigit()}
    found = {value: label for value, label in named.items() if label.strip().lower() not in _BACKGROUND}
    if len(named) == 1 and found:  # a lone foreground channel comes out as the label 1
        found = {1: next(iter(found.values()))}
    return tuple(_Segment(value=value, label=label[:64] or f"{value}") for value, label in sorted(found.items()))


def _description(segment: _Segment) -> SegmentDescription:
    region = segment.anatomic_region
    return SegmentDescription(
        label=segment.label,
        property_category=Code(*segment.property_category) if segment.property_category else TISSUE,
        property_type=Code(*segment.property_type) if segment.property_type else TISSUE,
        anatomic_region=Code(*region) if region else None,
        cielab=_cielab(segment.color) if segment.color is not None else None,
        min_volume_ml=segment.min_volume_ml,
    )


def _parameters(described: _DicomToml) -> tuple[tuple[str, str], ...]:
    """List the choices that may change an answer, where they are not the usual ones."""
    run, usual, measured = described.run, RunOptions(), described.measurements
    changed = [key for key in ("precision", "labels_first") if getattr(run, key) != getattr(usual, key)]
    parameters = [(key, str(getattr(run, key)).lower()) for key in changed]
    if measured.instances == "components":
        parameters.append(("max_findings", str(measured.max_findings)))
    parameters += [
        (f"min_volume_ml of {s.value}", f"{s.min_volume_ml:g}") for s in described.segments if s.min_volume_ml
    ]
    return tuple(parameters)


def _cielab(color: str | tuple[int, int, int]) -> tuple[float, float, float]:
    """Convert sRGB to CIELab under D65, the white point of the viewers (highdicom, dcmjs)."""
    rgb = tuple(bytes.fromhex(color[1:])) if isinstance(color, str) else color
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.95047, 1.0, 1.08883)
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) / w for row, w in zip(to_xyz, white, strict=True)]
    x, y, z = (v ** (1 / 3) if v > (6 / 29) ** 3 else v * (29 / 6) ** 2 / 3 + 4 / 29 for v in xyz)
    return max(0.0, 116 * y - 16), 500 * (x - y), 200 * (y - z)


def _remarks(path: Path, described: _DicomToml, metadata: dict[str, Any]) -> list[str]:
    remarks: list[str] = []
    if not (path / "dicom.toml").is_file():
        remarks.append("no dicom.toml: segments are named from metadata.json and coded as Tissue")
    if not described.segments and not _segments_from(metadata):
        remarks.append("no [[segments]] and no channel_def in metadata.json: nothing that it finds can be named")
    if not described.accepts and not described.inputs:
        remarks.append(f"no [accepts]: every series {'of its modality ' if _modality(metadata) else ''}is accepted")
    config = described.run.config
    if not any((path / name).is_file() for name in ((config,) if config else _CONFIGS)):
        remarks.append(f"no {config or _CONFIGS[0]}: it cannot run")
    if not any(file.suffix in {".pt", ".pth"} for _, file in _files(path)):
        remarks.append("no weights (models/model.pt): it cannot run")
    if described.outputs.lines and "long_axis" not in described.measurements.report:
        remarks.append("[outputs] lines are of diameters, and [measurements] report has no long_axis: there are none")
    for segment in described.segments:
        absent = [key for key in ("property_category", "property_type", "color") if getattr(segment, key) is None]
        if absent:
            remarks.append(f"segment {segment.value} ({segment.label}) has no {', '.join(absent)}")
    return remarks
