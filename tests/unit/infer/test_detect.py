"""A detector's boxes lie where the image is bright, in every geometry, and only those that score enough are told."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

import phantoms
from detectors import DICOM_TOML, BrightBoxes, blocks, bright_boxes_bundle
from imaging_ai.analysis import analyse
from imaging_ai.catalog import read_model
from imaging_ai.core.finding import Evaluation
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, ConfigError, ModelFailed, SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.detect import as_findings, detect
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.selftest import try_out
from imaging_ai.infer.volume import read_volume
from imaging_ai.sandbox.messages import Answered, FromModel

SHAPE, SPACING = (14, 24, 30), (2.5, 0.9, 1.4)
#: First and last slice, row and column.
LARGE, SMALL, FAINT = ((3, 7), (4, 9), (12, 21)), ((9, 11), (15, 20), (3, 5)), ((1, 2), (16, 21), (20, 27))
IMAGE = blocks(SHAPE, {LARGE: 380.0, SMALL: 320.0, FAINT: 120.0})
GEOMETRIES: dict[str, dict[str, Any]] = {
    "axial": {},
    "oblique": {"orientation": phantoms.OBLIQUE, "reverse": True},
    "sagittal": {"orientation": phantoms.SAGITTAL},
    "coronal, tilted": {"orientation": phantoms.CORONAL, "tilt_degrees": 13.0},
    "turned": {"orientation": phantoms.FLIPPED, "reverse": True},
}


def loaded(folder: Path, **how: Any) -> LoadedModel:
    return load_bundle(read_model(bright_boxes_bundle(folder / "model", **how)), allow_scripts=True)


def volume_of(image: NDArray[np.float32] = IMAGE, **geometry: Any) -> Volume:
    return read_volume(phantoms.series(image, **{"spacing": SPACING, **geometry}))


def truth(place: tuple[tuple[int, int], ...], volume: Volume, image: NDArray[np.float32] = IMAGE) -> NDArray[np.bool_]:
    """Say where a block is: by what is bright there, whatever way the slices were turned."""
    value = image[tuple(first for first, _ in place)]
    return np.asarray(np.isclose(volume.voxels, value, atol=0.5))


def middle(mask: NDArray[np.bool_], volume: Volume) -> NDArray[np.float64]:
    return volume.grid.to_patient(np.argwhere(mask).astype(np.float64)).mean(axis=0)


def sides(mask: NDArray[np.bool_], volume: Volume) -> list[float]:
    """Width, height and depth in millimetres."""
    return [len(np.unique(axis)) * mm for axis, mm in zip(np.nonzero(mask), volume.grid.spacing, strict=True)][::-1]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_boxes_are_exactly_the_blocks_of_the_image(tmp_path: Path, geometry: dict[str, Any]) -> None:
    model, volume = loaded(tmp_path), volume_of(**geometry)
    assert model.notes == ()
    best, second = detect(model, volume, "1.2")
    for said, place in ((best, LARGE), (second, SMALL)):
        mask = truth(place, volume)
        assert said.box is not None
        assert said.box.centre == pytest.approx(middle(mask, volume), abs=1e-2)
        assert said.box.size == pytest.approx(sides(mask, volume), abs=1e-2)
        assert [one.value for one in said.measurements] == pytest.approx(said.box.size)
        (finding,) = as_findings([said], volume.grid)
        assert np.array_equal(finding.mask, mask)
        nearest = int(np.rint(np.nonzero(mask)[0].mean()))
        assert said.instances == (volume.sources[nearest].sop_instance_uid,)
    assert (best.probability, second.probability) == pytest.approx((0.95, 0.8), abs=1e-3)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_where_the_bundle_resamples_they_are_a_voxel_off_at_most(tmp_path: Path, geometry: dict[str, Any]) -> None:
    model, volume = loaded(tmp_path, pixdim=[1.1, 1.6, 0.8]), volume_of(**geometry)
    best = detect(model, volume, "1.2")[0]
    mask = truth(LARGE, volume)
    assert best.box is not None
    assert np.abs(best.box.centre - middle(mask, volume)).max() < 0.8
    assert np.abs(np.subtract(best.box.size, sides(mask, volume))).max() < 2 * 1.6


def test_windows_say_the_same_as_the_whole(tmp_path: Path) -> None:
    told: list[float] = []
    apart = blocks(SHAPE, {((3, 7), (4, 9), (1, 7)): 380.0, ((9, 11), (15, 20), (22, 28)): 320.0})
    whole = detect(loaded(tmp_path), volume_of(apart), "1.2")
    by_windows = detect(loaded(tmp_path / "windows", window=[20, 24, 14]), volume_of(apart), "1.2", told.append)
    assert told == [0.0, 0.5, 1.0]
    assert len(whole) == 2
    for one, other in zip(whole, by_windows, strict=True):
        assert one.box is not None
        assert other.box is not None
        assert other.box.centre == pytest.approx(one.box.centre, abs=1e-3)
        assert other.probability == pytest.approx(one.probability, abs=1e-3)


class Rounded(BrightBoxes):
    """Answers as a network does whose products are in bfloat16."""

    def forward(self, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        return {key: [part.bfloat16() for part in parts] for key, parts in super().forward(images).items()}


def test_in_less_precision_boxes_stay_where_they_are(tmp_path: Path) -> None:
    place = ((3, 9), (4, 11), (21, 28))  # some 430 from where RAS begins
    volume = volume_of(blocks((12, 16, 460), {place: 380.0}))
    model = loaded(tmp_path)
    model.network = Rounded().eval()
    (said,) = detect(model, volume, "1.2")
    (finding,) = as_findings([said], volume.grid)
    assert np.array_equal(finding.mask, volume.voxels > 300)


def test_what_scores_too_little_is_not_told_and_of_what_is_nowhere_that_it_is_absent(tmp_path: Path) -> None:
    model = loaded(tmp_path, dicom_toml=DICOM_TOML.replace("0.5", "0.9"))
    (only,) = detect(model, volume_of(), "1.2")
    assert (only.present, only.tracking_identifier) == (True, "Nodule")
    (absent,) = detect(model, volume_of(blocks(SHAPE, {SMALL: 320.0})), "1.2")
    assert (absent.present, absent.box, absent.instances) == (False, None, ())
    assert absent.probability == pytest.approx(0.8, abs=1e-3), "the best that did not suffice"
    (nothing,) = detect(model, volume_of(np.zeros(SHAPE, np.float32)), "1.2")
    assert (nothing.present, nothing.probability) == (False, 0.0)


def test_the_best_are_told_as_many_as_are_wanted_and_how_many_are_not(tmp_path: Path) -> None:
    model = loaded(tmp_path, dicom_toml=DICOM_TOML.replace("[detect]", "[detect]\nmax_findings = 1"))
    (best,) = detect(model, volume_of(), "1.2")
    assert best.probability == pytest.approx(0.95, abs=1e-3)
    assert model.how == ("1 boxes are not told: they are beyond max_findings = 1",)


def test_a_line_through_the_odds_makes_a_score_a_probability(tmp_path: Path) -> None:
    model = loaded(tmp_path, dicom_toml=f"{DICOM_TOML}platt = [2.0, -1.0]\n")
    best = detect(model, volume_of(), "1.2")[0]
    odds = np.log(0.95 / 0.05)
    assert best.calibrated
    assert best.probability == pytest.approx(1 / (1 + np.exp(1 - 2 * odds)), abs=1e-4)


def test_the_same_job_tracks_the_same_boxes(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    first, again = (detect(model, volume_of(), "1.2") for _ in range(2))
    assert [one.tracking_uid for one in first] == [one.tracking_uid for one in again]
    assert len({one.tracking_uid for one in first}) == 2
    assert [one.tracking_identifier for one in first] == ["Nodule 1", "Nodule 2"]


def test_what_it_says_leaves_the_process_of_the_model_as_it_is(tmp_path: Path) -> None:
    said = detect(loaded(tmp_path), volume_of(orientation=phantoms.OBLIQUE), "1.2")
    sent = msgspec.msgpack.encode(Answered(evaluations=said))
    assert msgspec.msgpack.decode(sent, type=FromModel) == Answered(evaluations=said)


def test_no_masks_and_no_maps_are_made_of_boxes(tmp_path: Path) -> None:
    wanted = '\n[outputs]\nkinds = ["SEG", "SR", "PM", "SC"]\nsegmentation = "fractional"\n'
    entry = read_model(bright_boxes_bundle(tmp_path / "model", dicom_toml=DICOM_TOML + wanted))
    assert entry.outputs.kinds == ("SR", "SC")
    assert not entry.outputs.probability


def test_a_flat_detector_says_a_box_on_each_slice(tmp_path: Path) -> None:
    model, volume = loaded(tmp_path, dims=2), volume_of(orientation=phantoms.OBLIQUE)
    said = [one for one in detect(model, volume, "1.2") if one.probability > 0.9]
    mask = truth(LARGE, volume)
    assert len(said) == 5
    for one, k in zip(sorted(said, key=lambda one: _slice_of(one, volume)), range(3, 8), strict=True):
        assert _slice_of(one, volume) == k
        assert one.box is not None
        assert one.box.size == pytest.approx([*sides(mask, volume)[:2], SPACING[0]], abs=1e-2)
        assert list(one.box.outlines(volume.grid)) == [k]


def _slice_of(said: Evaluation, volume: Volume) -> int:
    assert said.box is not None
    return said.box.nearest_slice(volume.grid)


def test_overrides_take_the_place_of_what_the_configuration_says(tmp_path: Path) -> None:
    how: dict[str, Any] = {"pixdim": [1.1, 1.6, 0.8]}
    model = loaded(tmp_path, dicom_toml=f"{DICOM_TOML}\n[run]\noverrides = {{ as_it_is = true }}\n", **how)
    assert model.notes == ("Spacing is switched off in the configuration: images are read as they are spaced",)
    assert ("as_it_is", "True") in model.entry.algorithm.parameters
    box = detect(model, volume_of(), "1.2")[0].box
    assert box is not None
    assert box.size == pytest.approx(sides(truth(LARGE, volume_of()), volume_of()), abs=1e-2)
    unknown = f"{DICOM_TOML}\n[run]\noverrides = {{ nowhere = 1 }}\n"
    with pytest.raises(BundleInvalid, match=r"has no nowhere, which dicom\.toml, \[run\] overrides"):
        loaded(tmp_path / "other", dicom_toml=unknown)
    code = f"{DICOM_TOML}\n[run]\noverrides = {{ as_it_is = \"$__import__('os')\" }}\n"
    with pytest.raises(BundleInvalid, match="may do more than compute"):
        loaded(tmp_path / "code", dicom_toml=code, **how)


def test_only_what_sets_a_detector_up_is_called_on_it(tmp_path: Path) -> None:
    called = [f"$@detector.{name}(1)" for name in ("load_state_dict", "train", "set_balanced_sampler")]
    model = loaded(tmp_path, changes={"detector_ops": called, "inferer": {**_inferer(), "force_sliding_window": False}})
    with pytest.raises(ModelFailed, match="KeyError"):  # its keys are not the bundle's any more
        detect(model, volume_of(), "1.2")
    with pytest.raises(BundleInvalid, match="may do more than compute"):
        loaded(tmp_path / "code", changes={"detector_ops": ["$@detector.set_target_keys(open('/etc/passwd'), 'x')"]})


def _inferer() -> dict[str, Any]:
    return {"_target_": "scripts.detection_inferer.RetinaNetInferer", "detector": "@detector"}


def test_what_is_not_understood_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"name their labels by \[detect\] and \[\[classes"):
        loaded(tmp_path / "unnamed", dicom_toml=None)
    with pytest.raises(BundleInvalid, match="whose inferer is RetinaNetInferer"):
        loaded(tmp_path / "other", changes={"inferer": {"_target_": "SimpleInferer"}})
    with pytest.raises(BundleInvalid, match="no RetinaNetDetector of MONAI"):
        loaded(tmp_path / "strange", changes={"inferer": {**_inferer(), "detector": "@anchor_generator"}})
    flip = {"image_keys": "image", "box_keys": "box", "box_ref_image_keys": "image"}
    steps = [{"_target_": "ConvertBoxModed", "box_keys": "box"}, {"_target_": "FlipBoxd", **flip}]
    strange = {"_target_": "Compose", "transforms": steps}
    with pytest.raises(ModelFailed, match="FlipBoxd"):
        detect(loaded(tmp_path / "after", changes={"postprocessing": strange}), volume_of(), "1.2")


def placeless(image: NDArray[np.float32]) -> list[bytes]:
    datasets = phantoms.series(image, modality="CT", name="radiograph")
    for ds in datasets:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.FrameOfReferenceUID
        ds.Modality = "ES"
    return [phantoms.to_bytes(ds) for ds in datasets]


def test_images_without_a_place_in_the_patient_get_boxes_in_their_pixels(tmp_path: Path) -> None:
    wanted = '\n[outputs]\nkinds = ["SR", "SC"]\nlines = true\n'
    model = loaded(tmp_path, dims=2, dicom_toml=DICOM_TOML.replace('Modality = "CT"', 'Modality = "ES"') + wanted)
    files = placeless(blocks((2, 24, 30), {((0, 0), (4, 9), (12, 21)): 380.0, ((1, 1), (15, 20), (3, 5)): 320.0}))
    analysis = analyse({"image": files}, model, lambda *_: None, job_uid="1.2", created_at=0.0)
    report, outlines = (dcmread(io.BytesIO(one.data)) for one in analysis.objects[:2])
    regions = [item for item in walked(report) if item.ValueType == "SCOORD"]
    corners = [set(map(tuple, np.reshape(item.GraphicData, (-1, 2)).tolist())) for item in regions]
    assert corners == [{(x, y) for x in (12, 22) for y in (4, 10)}, {(x, y) for x in (3, 6) for y in (15, 21)}]
    sources = read_volume(files).sources
    named = [str(one.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for one in regions]
    assert named == [one.instances[0] for one in analysis.evaluations] == [one.sop_instance_uid for one in sources]
    assert all(one.measurements == () for one in analysis.evaluations), "no length is known"
    areas = [float(one.MeasuredValueSequence[0].NumericValue) for one in walked(outlines) if one.ValueType == "NUM"]
    assert areas == pytest.approx([60, 18])


def test_a_detector_of_volumes_refuses_images_without_a_place_in_the_patient(tmp_path: Path) -> None:
    with pytest.raises(SeriesRefused, match="place in the patient"):
        detect(loaded(tmp_path), read_volume(placeless(IMAGE[:2])), "1.2")


def walked(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence") or ():
        yield item
        yield from walked(item)


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        ("[detect]", r"\[detect\] without \[\[classes\]\]"),
        (f"{DICOM_TOML}\n[classify]\ntemperature = 2.0\n", r"\[classify\] beside \[detect\]"),
        (f'{DICOM_TOML}\n[[segments]]\nvalue = 1\nlabel = "x"\n', r"\[\[segments\]\] beside \[detect\]"),
        (f'{DICOM_TOML}\n[[classes]]\nvalue = 0\nlabel = "x"\n', "two classes have the same"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(tmp_path: Path, toml: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_model(bright_boxes_bundle(tmp_path / "model", dicom_toml=toml))


def test_metadata_that_speaks_of_objects_is_enough(tmp_path: Path) -> None:
    bundle = bright_boxes_bundle(tmp_path / "model", dicom_toml=None)
    answers = {"pred": {"type": "object", "num_channels": 1}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {"outputs": answers}}))
    entry = read_model(bundle)
    assert entry.detector is not None
    assert [one.label for one in entry.detector.classes] == ["Finding 0"]
    assert "no platt: what it says of a box is a score, no probability" in entry.missing()
    assert len(detect(load_bundle(entry, allow_scripts=True), volume_of(), "1.2")) == 2


def test_it_needs_no_scripts_but_its_network(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="scripts run only where they are allowed"):
        load_bundle(read_model(bright_boxes_bundle(tmp_path / "model")))


def test_a_trial_says_its_boxes(tmp_path: Path) -> None:
    trial = try_out(loaded(tmp_path))
    assert trial.answer.startswith("a box Nodule 0.")


def test_a_series_becomes_a_report_of_the_boxes_and_pictures_of_them(tmp_path: Path) -> None:
    wanted = '\n[outputs]\nkinds = ["SEG", "SR", "SC", "PM"]\nlines = true\n'
    model = loaded(tmp_path, dicom_toml=DICOM_TOML + wanted)
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(IMAGE, spacing=SPACING, orientation=phantoms.OBLIQUE)]
    analysis = analyse({"image": files}, model, lambda *_: None, job_uid="1.2", created_at=0.0)
    assert [one.kind for one in analysis.objects][:2] == ["SR", "SR"]
    assert {one.kind for one in analysis.objects[2:]} == {"SC"}
    assert analysis.findings == ()
    assert [one.present for one in analysis.evaluations] == [True, True]
    tree = analysis.evaluations[0].as_tree()
    assert set(tree["box"]) == {"centre", "edges"}  # type: ignore[call-overload]
    nothing = [phantoms.to_bytes(ds) for ds in phantoms.series(0 * IMAGE)]
    said = analyse({"image": nothing}, model, lambda *_: None, job_uid="1.3", created_at=0.0)
    assert [one.kind for one in said.objects] == ["SR"], "that nothing was found"


def test_the_stub_is_known_to_be_flat_or_not() -> None:
    kinds = {type(layer).__name__ for dims in (2, 3) for layer in BrightBoxes(dims).modules()}
    assert {"Conv2d", "Conv3d"} <= kinds
