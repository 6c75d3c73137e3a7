"""Why a loaded model says what it says: on the source where it should be, in every object, at no result's cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom import Dataset

import encoded
import phantoms
from classifiers import DICOM_TOML, bright_slices, brightness_bundle
from imaging_ai.analysis import Analysis, analyse
from imaging_ai.catalog import read_model
from imaging_ai.catalog.explaining import Explaining
from imaging_ai.core.job import Stage
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ConfigError
from imaging_ai.explanations import explain
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.segment import find
from imaging_ai.infer.volume import read_volume

GRADIENTS = Explaining(methods=("integrated-gradients",), checks=())
CORNER = phantoms.corner((12, 20, 16))


def segmenter(folder: Path, **how: object) -> LoadedModel:
    return load_bundle(read_model(phantoms.threshold_bundle(folder / "threshold", **how)))  # type: ignore[arg-type]


def volume_of(image: np.ndarray, **how: object) -> Volume:
    return read_volume(phantoms.to_bytes(ds) for ds in phantoms.series(image, **how))  # type: ignore[arg-type]


def analysed(model: LoadedModel, image: np.ndarray, explained: object, **how: object) -> Analysis:
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(image)]
    return analyse({"image": files}, model, lambda *_: None, job_uid="1.2.3", created_at=1e9, explained=explained)


@pytest.mark.parametrize(
    ("bundle", "how", "agreement"),
    [
        ({}, {}, 0.9),
        ({"window": 8}, {"orientation": phantoms.OBLIQUE}, 0.9),
        ({"window": 32}, {"orientation": phantoms.FLIPPED, "reverse": True}, 0.9),
        ({"pixdim": (1.0, 1.0, 2.0)}, {"orientation": phantoms.CORONAL}, 0.5),  # blurred, and never turned
    ],
    ids=["whole", "windows smaller than the finding", "a window larger than the image", "turned and resampled"],
)
def test_a_finding_is_explained_where_it_lies_whatever_the_geometry(
    tmp_path: Path, bundle: dict[str, object], how: dict[str, object], agreement: float
) -> None:
    model, volume = segmenter(tmp_path, **bundle), volume_of(CORNER, **how)
    findings = find(model.predict(volume), volume, model.entry, "1.2.3")
    (one,) = explain(model, {"image": volume}, findings, (), GRADIENTS).explanations
    marked = one.map.values > 0.3
    mask = findings[0].mask
    assert np.count_nonzero(marked & mask) / np.count_nonzero(marked | mask) > agreement
    centres = [np.mean(np.nonzero(where), axis=1) for where in (marked, mask)]
    assert centres[0] == pytest.approx(centres[1], abs=0.5)
    assert one.map.limits == (0.0, 1.0)
    assert one.tracking_uid == findings[0].tracking_uid
    assert all(mask[k].any() for k in one.slices)


def test_a_class_is_explained_by_the_whole_image(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 5), np.float32)
    image[2, 1, 3] = 300
    model = load_bundle(read_model(brightness_bundle(tmp_path / "model", (5, 6, 4))))
    analysis = analysed(model, image, ["integrated-gradients"])
    (told,) = analysis.provenance["explanations"]  # type: ignore[misc]
    assert told["of"] == "Bright"  # type: ignore[index]
    assert told["slices"] == [3], "counted from one, as frames are"  # type: ignore[index]
    maps = [encoded.read(one).pixel_array for one in analysis.objects if one.kind == "PM"]
    assert np.unravel_index(maps[0].argmax(), maps[0].shape) == (2, 1, 3)
    assert np.count_nonzero(maps[0]) == 1


def test_a_network_of_slices_is_explained_in_those_where_the_class_is_most_probable(tmp_path: Path) -> None:
    model = load_bundle(read_model(brightness_bundle(tmp_path / "model", (5, 6))))
    image = bright_slices([0.0] * 12)
    image[7, 2, 1], image[3, 5, 4] = 900, 600
    analysis = analysed(model, image, ["integrated-gradients"])
    (told,) = analysis.provenance["explanations"]  # type: ignore[misc]
    assert told["slices"] == [8, 4]  # type: ignore[index]
    (values,) = (encoded.read(one).pixel_array for one in analysis.objects if one.kind == "PM")
    assert set(zip(*map(list, np.nonzero(values)), strict=True)) == {(7, 2, 1), (3, 5, 4)}


@pytest.mark.parametrize("axis", [2, 0], ids=["the slices of the series", "across them"])
def test_slices_that_the_bundles_inferer_cuts_are_explained_each_on_its_own(tmp_path: Path, axis: int) -> None:
    bundle = phantoms.threshold_bundle(tmp_path / "cut")
    file = bundle / "configs" / "inference.json"
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    inferer = {"_target_": "SliceInferer", "roi_size": [14, 18], "spatial_dim": axis, "overlap": 0.25}
    file.write_text(json.dumps({**json.loads(file.read_text()), "network_def": network, "inferer": inferer}))
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -150.0])}, bundle / "models" / "model.pt")
    model, volume = load_bundle(read_model(bundle)), volume_of(CORNER, orientation=phantoms.OBLIQUE)
    findings = find(model.predict(volume), volume, model.entry, "1.2.3")
    (one,) = explain(model, {"image": volume}, findings, (), GRADIENTS).explanations
    marked, mask = one.map.values > 0.3, findings[0].mask
    assert not (marked & ~mask).any()
    taken = marked.any((0, 1)) if axis == 0 else marked.any((1, 2))
    assert taken.sum() == (8 if axis == 0 else 3), "eight slices at most, and all of fewer"
    assert np.array_equal(marked[..., taken], mask[..., taken]) if axis == 0 else np.array_equal(marked, mask)
    assert one.parameters["within"] == "at most 8 slices, each on its own"


@pytest.mark.parametrize(
    ("asked", "explained"),
    [
        ("instances = true", {"Bright, image 8": [8], "Bright, image 4": [4]}),
        ('targets = ["Bright, image 4"]', {"Bright, image 4": [4]}),
        ("", {"Bright": [8, 4]}),
    ],
    ids=["all that are present", "one by its name", "the series"],
)
def test_an_image_can_be_explained_by_itself(tmp_path: Path, asked: str, explained: dict[str, list[int]]) -> None:
    toml = DICOM_TOML.replace('"series"', '"instance"')
    toml += f'\n[explain]\nmethods = ["integrated-gradients"]\nchecks = []\n{asked}\n'
    model = load_bundle(read_model(brightness_bundle(tmp_path / "model", (5, 6), dicom_toml=toml)))
    image = bright_slices([0.0] * 12)
    image[7, 2, 1], image[3, 5, 4] = 900, 600
    analysis = analysed(model, image, None)
    told = analysis.provenance["explanations"]
    assert isinstance(told, list)
    assert {one["of"]: one["slices"] for one in told} == explained
    (report,) = (encoded.read(one) for one in analysis.objects if one.kind == "SR")
    maps = {str(encoded.read(one).SOPInstanceUID) for one in analysis.objects if one.kind == "PM"}
    assert maps <= {uid for item in walked(report) if concept(item) == "130401" for uid in referenced(item)}


def test_what_is_absent_is_explained_only_where_always_is_asked_for(tmp_path: Path) -> None:
    model = load_bundle(read_model(brightness_bundle(tmp_path / "model", (5, 6, 4))))
    image = np.full((4, 6, 5), -3, np.float32)
    image[1, 1, 1] = -2
    assert not analysed(model, image, True).provenance["explanations"]
    always = DICOM_TOML + '\n[explain]\nmethods = ["occlusion"]\nwhen = "always"\n'
    model = load_bundle(read_model(brightness_bundle(tmp_path / "always", (5, 6, 4), dicom_toml=always)))
    assert analysed(model, image, None).provenance["explanations"]


def test_every_object_says_what_explains_it(tmp_path: Path) -> None:
    analysis = analysed(segmenter(tmp_path), CORNER, ["integrated-gradients", "occlusion"])
    objects = {one.sop_instance_uid: encoded.read(one) for one in analysis.objects}
    kinds = [one.kind for one in analysis.objects]
    assert kinds[:4] == ["SEG", "SR", "PM", "PM"]
    assert set(kinds[4:-1]) == {"SC"}
    assert kinds[-1] == "KO"
    report, note = (next(ds for ds in objects.values() if ds.Modality == kind) for kind in ("SR", "KO"))
    named = [uid for item in walked(report) if concept(item) == "130401" for uid in referenced(item)]
    pictures = [uid for uid, ds in objects.items() if ds.Modality == "OT"]
    assert sorted(named) == sorted(pictures), "each map and picture is named by the finding that it explains"
    assert note.ConceptNameCodeSequence[0].CodeMeaning == "Of Interest"
    said = {uid for item in note.ContentSequence for uid in referenced(item)}
    assert set(pictures) < said
    sources = {str(ds.SOPInstanceUID) for ds in phantoms.series(CORNER)}
    assert said - set(pictures) <= sources
    assert said & sources
    for uid in pictures:
        assert objects[uid].get("DerivationDescription")


def test_a_map_says_its_method_in_codes_and_in_words_with_its_checks(tmp_path: Path) -> None:
    analysis = analysed(segmenter(tmp_path), CORNER, ["integrated-gradients"])
    (ds,) = (encoded.read(one) for one in analysis.objects if one.kind == "PM")
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130404"
    for words in (
        "Sundararajan",
        "steps 24",
        "baseline minimum",
        "Insertion",
        "Completeness error 0.0%",
        "1 in the map",
    ):
        assert words in ds.DerivationDescription
    assert ds.SeriesDescription.endswith("PM integrated 1")


def test_which_objects_are_made_is_asked_for(tmp_path: Path) -> None:
    toml = phantoms._DICOM_TOML.replace("MODALITY", "CT") + '\n[explain]\nmethods = ["grad-cam"]\nkinds = ["SC"]\n'
    analysis = analysed(segmenter(tmp_path, dicom_toml=toml), CORNER, None)
    assert {one.kind for one in analysis.objects} == {"SEG", "SR", "SC"}


def test_nothing_is_explained_unless_asked_for_and_a_rule_may_forbid_it(tmp_path: Path) -> None:
    toml = phantoms._DICOM_TOML.replace("MODALITY", "CT") + '\n[explain]\nmethods = ["grad-cam"]\n'
    assert not analysed(segmenter(tmp_path / "silent"), CORNER, None).provenance["explanations"]
    assert not analysed(segmenter(tmp_path / "loud", dicom_toml=toml), CORNER, False).provenance["explanations"]
    with pytest.raises(ConfigError, match="grad-kam"):
        analysed(segmenter(tmp_path / "wrong"), CORNER, ["grad-kam"])


def test_what_cannot_be_explained_is_noted_and_the_result_is_whole(tmp_path: Path) -> None:
    toml = phantoms._DICOM_TOML.replace("MODALITY", "CT")
    toml += '\n[explain]\nmethods = ["grad-cam", "occlusion"]\nlayer = "nowhere"\nchecks = []\n'
    analysis = analysed(segmenter(tmp_path, dicom_toml=toml), CORNER, None)
    assert [one.kind for one in analysis.objects][:2] == ["SEG", "SR"]
    (note,) = (str(one) for one in analysis.provenance["notes"] if "explained" in str(one))  # type: ignore[attr-defined]
    assert note.startswith("Bright is not explained by grad-cam: [explain] layer: the network has no 'nowhere'")
    assert len(analysis.provenance["explanations"]) == 1  # type: ignore[arg-type]


def test_no_more_findings_are_explained_than_asked_for_the_largest_first(tmp_path: Path) -> None:
    image = np.zeros((12, 20, 16), np.float32)
    image[1:4, 2:5, 2:5] = image[7:11, 12:17, 9:14] = image[1:2, 15:16, 1:2] = 300
    toml = phantoms._DICOM_TOML.replace("MODALITY", "CT") + '\n[measurements]\ninstances = "components"\n'
    toml += '\n[explain]\nmethods = ["occlusion"]\nchecks = []\nmax_findings = 2\n'
    analysis = analysed(segmenter(tmp_path, dicom_toml=toml), image, None)
    told = analysis.provenance["explanations"]
    assert isinstance(told, list)
    sizes = {one.tracking_uid: one.region.voxels for one in analysis.findings}
    assert [sizes[one["tracking_uid"]] for one in told] == [100, 27]


def test_progress_is_told_under_its_own_name(tmp_path: Path) -> None:
    told: list[tuple[int, Stage]] = []
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(CORNER)]
    analyse(
        {"image": files},
        segmenter(tmp_path),
        lambda *report: told.append(report),
        job_uid="1.2.3",
        created_at=1e9,
        explained=["occlusion"],
    )
    assert Stage.EXPLAIN in [stage for _, stage in told]
    assert [percent for percent, _ in told] == sorted(percent for percent, _ in told)


def walked(ds: Dataset) -> list[Dataset]:
    return [ds, *(item for child in ds.get("ContentSequence") or () for item in walked(child))]


def concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].get("CodeValue", "")) if "ConceptNameCodeSequence" in item else ""


def referenced(item: pydicom.Dataset) -> list[str]:
    return [str(one.ReferencedSOPInstanceUID) for one in item.get("ReferencedSOPSequence") or ()]


@pytest.mark.parametrize(("channels", "kinds"), [(2, ["SEG", "SR", "PM"]), (3, ["SEG", "SR"])])
def test_a_label_that_got_another_number_is_explained_only_where_no_other_channel_could_be_meant(
    tmp_path: Path, channels: int, kinds: list[str]
) -> None:
    bundle = phantoms.threshold_bundle(tmp_path / "renamed")
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    renamed = {"_target_": "MapLabelValued", "keys": "pred", "orig_labels": [1], "target_labels": [7]}
    config["postprocessing"]["transforms"].append(renamed)
    config["network_def"]["out_channels"] = channels
    file.write_text(json.dumps(config))
    weight, bias = torch.zeros(channels, 1, 1, 1, 1), torch.full((channels,), -1000.0)
    weight[1], bias[0], bias[1] = 1, 0, -150
    torch.save({"weight": weight, "bias": bias}, bundle / "models" / "model.pt")
    toml = bundle / "dicom.toml"
    toml.write_text(toml.read_text().replace("value = 1", "value = 7"))
    options = Explaining(methods=("integrated-gradients",), checks=(), kinds=("PM",))
    analysis = analysed(load_bundle(read_model(bundle)), CORNER, options)
    assert [one.kind for one in analysis.objects] == kinds
    notes = str(analysis.provenance["notes"])
    assert ("gives labels other numbers" in notes) == (channels == 3)
