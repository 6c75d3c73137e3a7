"""A model on a folder without a server: which series it takes, what it writes, why it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from classifiers import DICOM_TOML, bright_slices, brightness_bundle
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.job import Stage
from imaging_ai.errors import SeriesRefused
from imaging_ai.offline import Written, _choose, _read, run_folder
from imaging_ai.sandbox.inside import Inside
from imaging_ai.sandbox.messages import Spec
from phantoms import ball, series, threshold_bundle, write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return read_model(threshold_bundle(tmp_path_factory.mktemp("models") / "threshold"))


def phantom(name: str, modality: str = "CT", slices: int = 6) -> list[Dataset]:
    return series(ball((slices, 20, 20)), name=name, modality=modality)


def run(source: Path, model: ModelEntry, created_at: float = 1e9) -> list[Written]:
    inside = Inside(Spec(device="cpu", threads=1))
    return list(run_folder(source, source.parent / "out", model, inside, lambda *_: None, created_at=created_at))


def test_every_series_that_the_model_accepts_is_run(tmp_path: Path, model: ModelEntry) -> None:
    source = tmp_path / "in"
    for name, modality in (("one", "CT"), ("two", "CT"), ("three", "MR")):
        write(phantom(name, modality), source / name / "deep")
    (source / "notes.txt").write_text("not DICOM")
    (source / "empty").mkdir()
    written = run(source, model)
    assert len(written) == 2
    assert len(list((tmp_path / "out").iterdir())) == 4
    for one in written:
        assert [made.kind for made, _ in one.objects] == ["SEG", "SR"]
        (finding,) = one.findings
        assert finding.found
        for made, path in one.objects:
            assert path.read_bytes() == made.data
            assert pydicom.dcmread(path).SOPInstanceUID == made.sop_instance_uid


def test_a_model_that_asks_for_more_gets_each_object_as_a_file(tmp_path: Path) -> None:
    bundle = threshold_bundle(tmp_path / "models" / "wanting")
    with (bundle / "dicom.toml").open("a") as toml:
        toml.write('\n[outputs]\nkinds = ["SEG", "SR", "PM", "SC"]\nlines = true\n')
    write(phantom("one"), tmp_path / "in")
    (written,) = run(tmp_path / "in", read_model(bundle))
    kinds = [made.kind for made, _ in written.objects]
    assert kinds[:4] == ["SEG", "SR", "SR", "PM"]
    assert set(kinds[4:]) == {"SC"}
    assert len(list((tmp_path / "out").iterdir())) == len(kinds)


def test_progress_goes_from_nothing_to_the_end_of_each_run(tmp_path: Path, model: ModelEntry) -> None:
    write(phantom("one"), tmp_path / "in")
    told: list[tuple[int, Stage]] = []
    inside = Inside(Spec(device="cpu", threads=1))
    report = lambda *one: told.append(one)  # noqa: E731
    list(run_folder(tmp_path / "in", tmp_path / "out", model, inside, report, created_at=1e9))
    percents = [percent for percent, _ in told]
    assert percents == sorted(percents)
    assert told[0] == (0, Stage.READ)
    assert told[-1][1] is Stage.VALIDATE


def test_a_run_that_is_repeated_replaces_its_files(tmp_path: Path, model: ModelEntry) -> None:
    write(phantom("one"), tmp_path / "in")
    (first,), (again,) = run(tmp_path / "in", model), run(tmp_path / "in", model, created_at=2e9)
    assert [path for _, path in first.objects] == [path for _, path in again.objects]
    assert [made.sop_instance_uid for made, _ in first.objects] == [made.sop_instance_uid for made, _ in again.objects]


def test_nothing_found_is_a_report_without_a_segmentation(tmp_path: Path, model: ModelEntry) -> None:
    write(series(np.zeros((6, 20, 20), np.float32), name="dark"), tmp_path / "in")
    (written,) = run(tmp_path / "in", model)
    assert [made.kind for made, _ in written.objects] == ["SR"]
    assert not any(finding.found for finding in written.findings)


@pytest.fixture(params=["no files", "no model's", "refused"])
def useless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that the model cannot be run on, and what the reason must name."""
    source = tmp_path / "in"
    source.mkdir()
    match request.param:
        case "no files":
            yield source, "no DICOM files"
        case "no model's":
            write(phantom("one", "MR"), source)
            yield source, "Modality"
        case _:
            write(phantom("few", slices=2), source)
            yield source, "slices"


def test_what_cannot_be_run_is_refused_with_the_reason_and_writes_nothing(
    useless: tuple[Path, str], model: ModelEntry
) -> None:
    source, reason = useless
    with pytest.raises(SeriesRefused, match=reason):
        run(source, model)
    assert list((source.parent / "out").glob("*")) == []


def test_a_model_of_several_inputs_takes_a_series_for_each(tmp_path: Path) -> None:
    toml = """
[inputs.t1]
SeriesDescription = "*T1*"
[inputs.t2]
SeriesDescription = "*T2*"
"""
    entry = read_model(threshold_bundle(tmp_path / "both", modality="MR", dicom_toml=toml))
    for name in ("T1", "T2"):
        datasets = phantom(name, "MR")
        for ds in datasets:
            ds.StudyInstanceUID, ds.SeriesDescription = "1.2.3", f"ax {name}"
        write(datasets, tmp_path / "in" / name)
    of_another = phantom("of another", "MR")
    for ds in of_another:
        ds.SeriesDescription = "T1 of another study"
    write(of_another, tmp_path / "in" / "0 another")
    found = _read(tmp_path / "in")
    (channels,) = _choose(found, entry)
    assert {name: one.attributes["SeriesDescription"] for name, (_, one) in channels.items()} == {
        "t1": "ax T1",
        "t2": "ax T2",
    }
    only = {uid: one for uid, one in found.items() if one.attributes["SeriesDescription"] == "ax T1"}
    assert list(_choose(only, entry)) == []


def test_no_series_is_two_inputs_at_once(tmp_path: Path) -> None:
    toml = '[inputs.one]\nModality = "MR"\n[inputs.other]\nModality = "MR"\n'
    entry = read_model(threshold_bundle(tmp_path / "both", modality="MR", dicom_toml=toml))
    first, second = phantom("first", "MR"), phantom("second", "MR")
    write(first, tmp_path / "in" / "first")
    assert list(_choose(_read(tmp_path / "in"), entry)) == []
    for ds in second:
        ds.StudyInstanceUID = first[0].StudyInstanceUID
    write(second, tmp_path / "in" / "second")
    (channels,) = _choose(_read(tmp_path / "in"), entry)
    assert len({uid for uid, _ in channels.values()}) == 2


def test_what_a_classifier_says_is_written_as_json_beside_the_report(tmp_path: Path) -> None:
    bundle = brightness_bundle(tmp_path / "bright", (20, 20), dicom_toml=DICOM_TOML.replace('"series"', '"instance"'))
    write(series(bright_slices([1.0, -1.0], 20, 20), name="two"), tmp_path / "in")
    (written,) = run(tmp_path / "in", read_model(bundle))
    assert [made.kind for made, _ in written.objects] == ["SR"]
    (path,) = (tmp_path / "out").glob("*.json")
    told = json.loads(path.read_bytes())
    assert told == [one.as_tree() for one in written.evaluations]
    assert [one["probability"] for one in told] == pytest.approx([0.6225, 0.6225, 0.3775], abs=1e-4)
