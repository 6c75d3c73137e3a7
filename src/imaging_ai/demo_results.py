"""What the demo shows of a job's results: the objects as files, the report's numbers, and a picture.

Everything is read from the SEG and the SR themselves, as any other system would.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage, SecondaryCaptureImageStorage

from imaging_ai.core.instance import StoredInstance
from imaging_ai.infer.volume import read_volume
from imaging_ai.visualize.layouts import pages
from imaging_ai.visualize.reading import place

__all__ = ["Outcome", "save"]

#: What an object is, where its Modality is only OT.
_KINDS: Mapping[str, str] = {ParametricMapStorage: "PM", SecondaryCaptureImageStorage: "SC"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one job left: (kind, series description, path), the measurements as sentences, the largest volume (ml)."""

    files: tuple[tuple[str, str, Path], ...]
    sentences: tuple[str, ...]
    largest_volume_ml: float | None
    preview: Path | None


def save(folder: Path, objects: Sequence[tuple[StoredInstance, bytes]], source: Sequence[bytes]) -> Outcome:
    """Write the objects of a job, and a picture of its segments over the source series, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files, sentences, volumes = [], [], []
    preview: Path | None = None
    for instance, data in objects:
        ds = pydicom.dcmread(io.BytesIO(data))
        kind = _KINDS.get(ds.SOPClassUID, str(ds.Modality))
        path = folder / f"{kind.lower()}-{instance.sop_instance_uid[-12:]}.dcm"
        path.write_bytes(data)
        files.append((kind, str(ds.SeriesDescription), path))
        if kind == "SR":
            for label, rows in () if _is_of_lines(ds) else measurements(ds):
                if ", image " in label:
                    continue  # what is said of single slices stays in the report
                sentences.append(f"{label}: " + ", ".join(f"{name} {value:.4g} {unit}" for name, value, unit in rows))
                volumes += [_millilitres(value, unit) for name, value, unit in rows if name == "Volume"]
        if kind == "SEG":
            preview = folder / "preview.png"
            volume = read_volume(source)
            (page,) = pages(volume, place([ds], volume), "planes", side=360)
            Image.fromarray(page).save(preview)
    return Outcome(tuple(files), tuple(sentences), max(volumes, default=None), preview)


def measurements(ds: Dataset) -> Iterator[tuple[str, list[tuple[str, float, str]]]]:
    """Yield the tracking identifier and the (name, value, unit) rows of each measurement group (TID 1411, 1501)."""
    for item in _walk(ds):
        if _code(item) != "125007":  # Measurement Group
            continue
        content = item.ContentSequence
        label = next((str(one.TextValue) for one in content if _code(one) == "112039"), "finding")
        rows = []
        for one in content:
            if one.ValueType == "NUM" and one.get("MeasuredValueSequence"):
                measured = one.MeasuredValueSequence[0]
                unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
                rows.append((_name(one), float(measured.NumericValue), str(unit)))
        yield label, rows


def _is_of_lines(ds: Dataset) -> bool:
    """Whether a report repeats the diameters of another as lines."""
    return any(item.ValueType == "SCOORD3D" for item in _walk(ds))


def _walk(item: Dataset) -> Iterator[Dataset]:
    for one in item.get("ContentSequence", ()):
        yield one
        yield from _walk(one)


def _code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _name(item: Dataset) -> str:
    """The quantity, with its derivation (mean, maximum …) where it has one."""
    meaning = str(item.ConceptNameCodeSequence[0].CodeMeaning)
    for modifier in item.get("ContentSequence", ()):
        if _code(modifier) == "121401":  # Derivation
            return f"{meaning} {modifier.ConceptCodeSequence[0].CodeMeaning}".strip()
    return meaning


def _millilitres(value: float, unit: str) -> float:
    return value / 1000 if unit == "mm3" else value
