"""A cine is several volumes: a model that reads slice by slice reads each time point, and says so on its instances."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import Dataset, dcmread

import phantoms
from imaging_ai.analysis import analyse
from imaging_ai.catalog import read_model
from imaging_ai.core.identity import derive_uid
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.phases import time_points
from imaging_ai.infer.volume import read_volume

SHAPE = (3, 24, 32)


def cine(times: int, keyword: str = "TriggerTime") -> list[Dataset]:
    """Write a beating ball: at time k it has the radius 3 + k."""
    datasets: list[Dataset] = []
    for k in range(times):
        image = phantoms.ball(SHAPE, radius=3 + k)
        for number, ds in enumerate(phantoms.series(image, modality="MR", spacing=(8.0, 1.0, 1.0))):
            ds.SOPInstanceUID = derive_uid("cine", str(k), str(number))
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            setattr(ds, keyword, 40 * (times - k))  # the last was written first
            datasets.append(ds)
    return datasets


@pytest.mark.parametrize("keyword", ["TriggerTime", "TemporalPositionIdentifier"])
def test_time_points_come_in_the_order_of_time(keyword: str) -> None:
    points = time_points({"image": cine(4, keyword)})
    sizes = [int((read_volume(point["image"]).voxels > 150).sum()) for point in points]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)


def enhanced_cine(times: int) -> Dataset:
    """Write the same as one instance, its frames in an order that is neither of time nor of place."""
    frames = np.concatenate([phantoms.ball(SHAPE, radius=3 + k) for k in range(times)])
    order = np.random.default_rng(0).permutation(len(frames))
    ds = phantoms.enhanced(frames, spacing=(8.0, 1.0, 1.0), order=order.tolist())
    places = phantoms.enhanced(frames[: SHAPE[0]], spacing=(8.0, 1.0, 1.0)).PerFrameFunctionalGroupsSequence
    for group, number in zip(ds.PerFrameFunctionalGroupsSequence, order.tolist(), strict=True):
        group.PlanePositionSequence = places[number % SHAPE[0]].PlanePositionSequence
        group.FrameContentSequence[0].TemporalPositionIndex = number // SHAPE[0] + 1
    return ds


def test_the_time_points_of_an_enhanced_instance_are_frames_of_it() -> None:
    ds = enhanced_cine(4)
    points = time_points({"image": [phantoms.to_bytes(ds)]})
    volumes = [read_volume(point["image"]) for point in points]
    for k, volume in enumerate(volumes):
        assert np.array_equal(volume.voxels, phantoms.ball(SHAPE, radius=3 + k))
        of_it = [ds.PerFrameFunctionalGroupsSequence[one.frame_number - 1] for one in volume.sources]
        assert {group.FrameContentSequence[0].TemporalPositionIndex for group in of_it} == {k + 1}
    assert len({one.frame_number for volume in volumes for one in volume.sources}) == 4 * SHAPE[0]


def test_one_enhanced_volume_stays_one() -> None:
    ds = phantoms.enhanced(phantoms.ball(SHAPE, radius=5))
    assert time_points({"image": [ds]}) == [{"image": [ds]}]


def test_each_time_point_of_an_enhanced_instance_gets_a_result_on_its_own_frames(flat_model: LoadedModel) -> None:
    ds = enhanced_cine(3)
    files = [phantoms.to_bytes(ds)]
    analysis = analyse({"image": files}, flat_model, lambda *_: None, job_uid="1.2", created_at=0.0)
    segs = [dcmread(io.BytesIO(one.data)) for one in analysis.objects if one.kind == "SEG"]
    assert len(segs) == 3
    for k, seg in enumerate(segs):
        sources = [
            group.DerivationImageSequence[0].SourceImageSequence[0] for group in seg.PerFrameFunctionalGroupsSequence
        ]
        numbers = [one.ReferencedFrameNumber - 1 for one in sources]
        times = {ds.PerFrameFunctionalGroupsSequence[n].FrameContentSequence[0].TemporalPositionIndex for n in numbers}
        assert times == {k + 1}
        assert np.array_equal(np.reshape(seg.pixel_array, (-1, *SHAPE[1:])) > 0, ds.pixel_array[numbers] > 150)


def test_one_volume_stays_one() -> None:
    datasets = cine(1)
    assert time_points({"image": datasets}) == [{"image": datasets}]


def test_a_few_copies_are_no_time_points() -> None:
    datasets = cine(1)
    assert len(time_points({"image": [*datasets, datasets[0]]})) == 1


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("keyword", ["EchoTime", "DiffusionBValue"])
def test_echoes_and_b_values_are_not_taken_apart_whenever_they_were_taken(keyword: str, at_once: bool) -> None:
    datasets = cine(2, keyword)
    for number, ds in enumerate(datasets):
        ds.ContentTime = "120000" if at_once else f"{120000 + number}"
    points = time_points({"image": datasets})
    assert len(points) == 1
    with pytest.raises(SeriesRefused, match=f"they differ in {keyword}"):
        read_volume(points[0]["image"])


def test_a_cine_with_a_hole_is_refused() -> None:
    with pytest.raises(SeriesRefused, match="3 to 4 time points each") as refusal:
        time_points({"image": cine(4)[:-1]})
    assert refusal.value.reason == "repeated-positions"


@pytest.fixture(params=["slice by slice", "SliceInferer"])
def flat_model(tmp_path: Path, request: pytest.FixtureRequest) -> LoadedModel:
    bundle = phantoms.threshold_bundle(tmp_path / "flat")
    (bundle / "dicom.toml").write_text('[[segments]]\nvalue = 1\nlabel = "Bright"\n')
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    if request.param == "SliceInferer":
        config["inferer"] = {"_target_": "SliceInferer", "roi_size": [32, 24], "spatial_dim": 2}
    file.write_text(json.dumps(config))
    state = torch.load(bundle / "models" / "model.pt")
    torch.save({"weight": state["weight"][..., 0], "bias": state["bias"]}, bundle / "models" / "model.pt")
    return load_bundle(read_model(bundle))


def test_each_time_point_gets_a_result_on_its_own_instances(flat_model: LoadedModel) -> None:
    datasets = cine(3)
    files = [phantoms.to_bytes(ds) for ds in datasets]
    told: list[int] = []
    analysis = analyse({"image": files}, flat_model, lambda part, _: told.append(part), job_uid="1.2", created_at=0.0)
    segs = [dcmread(io.BytesIO(one.data)) for one in analysis.objects if one.kind == "SEG"]
    assert len(segs) == 3
    assert told == sorted(told)
    assert len({finding.tracking_uid for finding in analysis.findings}) == 3
    assert [ds.SeriesDescription.rsplit(" ", 4)[1:] for ds in segs] == [["time", f"{k}", "of", "3"] for k in (1, 2, 3)]
    for k, seg in enumerate(segs):  # the first time point was written last
        referenced = {
            item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        own = {ds.SOPInstanceUID for ds in datasets[3 * (2 - k) : 3 * (2 - k) + 3]}
        assert referenced <= own
        bright = sum(int((ds.pixel_array > 150).sum()) for ds in datasets if ds.SOPInstanceUID in own)
        assert int(np.sum(seg.pixel_array)) == bright
    assert analysis.provenance["time_points"] == 3
