"""One installed model: `dicom.toml` beside a MONAI bundle, read into what the rest of the program asks of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from imaging_ai.catalog.classes import Class, Classifier, Classify, classes_from, classifier_of, remarks_on
from imaging_ai.catalog.detecting import Detect, Detector, boxes_from, detector_of, remarks_on_boxes
from imaging_ai.catalog.digest import bundle_digest, files_of
from imaging_ai.catalog.explaining import Explaining
from imaging_ai.catalog.familiar import Familiarity
from imaging_ai.catalog.limits import Limits
from imaging_ai.catalog.metadata import modality_of, read_metadata
from imaging_ai.catalog.outputs import Outputs
from imaging_ai.catalog.running import RunOptions
from imaging_ai.catalog.segments import Measurements, Segment, description_of, segments_from
from imaging_ai.catalog.table import Table, Triple
from imaging_ai.core.finding import Algorithm, Code, SegmentDescription
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.matching import Conditions
from imaging_ai.errors import ConfigError

__all__ = ["CONFIGS", "ModelEntry", "read_model"]

CONFIGS = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))


class _Model(Table, frozen=True):
    """`[model]`: who answers."""

    name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    version: Annotated[str, msgspec.Meta(max_length=64)] = ""
    manufacturer: Annotated[str, msgspec.Meta(max_length=64)] = ""
    family: Triple = ("123110", "DCM", "Artificial Intelligence")


class _DicomToml(Table, frozen=True):
    """The whole file."""

    model: _Model = _Model()
    accepts: dict[str, Any] = msgspec.field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    measurements: Measurements = Measurements()
    outputs: Outputs = Outputs()
    refuse: Limits = Limits()
    run: RunOptions = RunOptions()
    classes: tuple[Class, ...] = ()
    classify: Classify = Classify()
    detect: Detect | None = None
    explain: Explaining = Explaining()
    out_of_distribution: Familiarity = Familiarity()


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One installed model.

    `segments` has the things that the model can find and `segment_values`, in the same order, the label
    (or the channel, from 0, where channels overlap) that stands for each. `inputs` is empty for a model
    of one series; otherwise it maps each channel's name to its conditions, in the order of the channels.
    `classifier` says what the numbers mean of a network that answers a number for each class, `detector` what the
    labels mean of one that answers boxes.
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
    explain: Explaining = field(default_factory=Explaining)
    classifier: Classifier | None = None
    detector: Detector | None = None
    familiarity: Familiarity = field(default_factory=Familiarity)

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


def read_model(path: Path, name: str = "", digest: str = "") -> ModelEntry:
    """Read the model in the directory `path`; `name` is what it is asked for by (default: that of the directory).

    `digest` is given where it has just been taken.
    """
    name = name or path.name
    toml = path / "dicom.toml"
    described = _decode(toml) if toml.is_file() else _DicomToml()
    metadata = read_metadata(path / "configs" / "metadata.json")
    detector = _detector(toml, described, metadata)
    classifier = None if detector else _classifier(toml, described, metadata)
    segments = described.segments or (() if classifier or detector else segments_from(metadata))
    values = tuple(segment.value for segment in segments)
    if len(set(values)) < len(values):
        raise ConfigError(f"{toml}: [[segments]] value: two segments have the same; give each its own")
    if described.outputs.segmentation == "fractional" and len(segments) > 1:
        raise ConfigError(f"{toml}: [outputs] segmentation: fractional is for models of one segment; take labelmap")
    digest = digest or bundle_digest(path)
    version = described.model.version or str(metadata.get("version", "0"))
    return ModelEntry(
        name=name,
        version=version,
        path=path,
        digest=digest,
        algorithm=Algorithm(
            name=described.model.name or name.partition("@")[0],
            version=version,
            manufacturer=described.model.manufacturer or str(metadata.get("authors", ""))[:64] or "unknown",
            family=Code(*described.model.family),
            digest=digest,
            device_uid=derive_uid("device", digest),
            parameters=_parameters(described) + (one.parameters if (one := classifier or detector) else ()),
        ),
        accepts=Conditions.parse(described.accepts or modality_of(metadata), f"{toml}: [accepts]"),
        inputs={k: Conditions.parse(v, f"{toml}: [inputs.{k}]") for k, v in described.inputs.items()},
        segments=tuple(description_of(segment) for segment in segments),
        segment_values=values,
        measurements=described.measurements,
        refuse=described.refuse,
        run=described.run,
        remarks=tuple(_remarks(path, described, metadata, detects=detector is not None)),
        outputs=_outputs(described, segments, classifier, detector),
        classifier=classifier,
        detector=detector,
        explain=described.explain,
        familiarity=described.out_of_distribution,
    )


def _decode(toml: Path) -> _DicomToml:
    try:
        return msgspec.toml.decode(toml.read_bytes(), type=_DicomToml)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{toml}: {error}; docs/models.md has the keys") from error


def _classifier(toml: Path, described: _DicomToml, metadata: dict[str, Any]) -> Classifier | None:
    classes = described.classes or (() if described.segments else classes_from(metadata))
    try:
        return classifier_of(classes, described.classify)
    except ValueError as error:
        raise ConfigError(f"{toml}: {error}") from error


def _detector(toml: Path, described: _DicomToml, metadata: dict[str, Any]) -> Detector | None:
    other = bool(described.segments) or described.classify != Classify()
    if described.detect is None and (other or not boxes_from(metadata)):
        return None
    try:
        if described.segments:
            raise ValueError("[[segments]] beside [detect]: a detector finds boxes, named by [[classes]]")
        classes = described.classes or boxes_from(metadata)
        return detector_of(classes, described.detect or Detect(), described.classify)
    except ValueError as error:
        raise ConfigError(f"{toml}: {error}") from error


def _outputs(
    described: _DicomToml, segments: tuple[Segment, ...], classifier: Classifier | None, detector: Detector | None
) -> Outputs:
    if detector:
        return described.outputs.of_boxes()
    return described.outputs if segments or not classifier else described.outputs.without_segments()


def _parameters(described: _DicomToml) -> tuple[tuple[str, str], ...]:
    """List the choices that may change an answer, where they are not the usual ones."""
    run, usual, measured = described.run, RunOptions(), described.measurements
    changed = [key for key in ("precision", "labels_first") if getattr(run, key) != getattr(usual, key)]
    parameters = [(key, str(getattr(run, key)).lower()) for key in changed]
    parameters += [(key, str(value)) for key, value in sorted(run.overrides.items())]
    if measured.instances == "components":
        parameters.append(("max_findings", str(measured.max_findings)))
    parameters += [
        (f"min_volume_ml of {s.value}", f"{s.min_volume_ml:g}") for s in described.segments if s.min_volume_ml
    ]
    return tuple(parameters)


def _remarks(path: Path, described: _DicomToml, metadata: dict[str, Any], *, detects: bool) -> list[str]:
    remarks: list[str] = []
    if not (path / "dicom.toml").is_file():
        remarks.append("no dicom.toml: what it finds is named from metadata.json, by the most general codes")
    classes = described.classes or (boxes_from if detects else classes_from)(metadata)
    if not described.segments and not classes and not segments_from(metadata):
        remarks.append("no [[segments]] or [[classes]], no channel_def in metadata.json: what it finds has no name")
    if not described.accepts and not described.inputs:
        remarks.append(f"no [accepts]: every series {'of its modality ' if modality_of(metadata) else ''}is accepted")
    config = described.run.config
    if not any((path / name).is_file() for name in ((config,) if config else CONFIGS)):
        remarks.append(f"no {config or CONFIGS[0]}: it cannot run")
    if not any(file.suffix in {".pt", ".pth"} for _, file in files_of(path)):
        remarks.append("no weights (models/model.pt): it cannot run")
    if described.outputs.lines and not detects and "long_axis" not in described.measurements.report:
        remarks.append("[outputs] lines are of diameters, and [measurements] report has no long_axis: there are none")
    for segment in described.segments:
        absent = [key for key in ("property_category", "property_type", "color") if getattr(segment, key) is None]
        if absent:
            remarks.append(f"segment {segment.value} ({segment.label}) has no {', '.join(absent)}")
    return remarks + (remarks_on_boxes(classes) if detects else remarks_on(classes, described.classify))
