"""A detector's boxes are in the report as regions that bound a finding, on the slices that they cover."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

import encoded
import phantoms
from imaging_ai.core.box import PatientBox
from imaging_ai.core.finding import ClassDescription, Code, Evaluation
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.measure import measure_box

NODULE = ClassDescription("Nodule", Code("27925004", "SCT", "Nodule"), 0.3, Code("39607008", "SCT", "Lung"))


def found(volume: Volume, low: tuple[float, ...], high: tuple[float, ...], number: int = 1) -> Evaluation:
    """Say that a nodule is between two corners, in columns, rows and slices."""
    box = PatientBox.between(np.array(low), np.array(high), volume.grid.affine)
    return Evaluation(
        NODULE,
        0.4 + number / 10,
        f"Nodule {number}",
        derive_uid("test", "box", str(number)),
        (volume.sources[box.nearest_slice(volume.grid)].sop_instance_uid,),
        calibrated=False,
        box=box,
        measurements=measure_box(box),
    )


def objects_of(volume: Volume, *said: Evaluation) -> dict[str, EncodedObject]:
    objects = encoded.encode(volume, [], evaluations=said, lines=True)
    for one in objects.values():
        check(one, volume)
    return objects


def content(obj: EncodedObject) -> hd.sr.MeasurementReport:
    return hd.sr.srread(io.BytesIO(obj.data)).content


def places(points: NDArray[np.float64], volume: Volume) -> NDArray[np.float64]:
    inverse = np.linalg.inv(volume.grid.affine)
    return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])


@pytest.mark.parametrize(
    "how",
    [{}, {"orientation": phantoms.OBLIQUE, "spacing": (2.0, 0.5, 0.9)}, {"tilt_degrees": -18.5}],
    ids=str,
)
def test_a_box_is_a_volume_with_a_polygon_on_each_of_its_slices(how: dict[str, object]) -> None:
    volume = encoded.phantom_volume((8, 12, 10), **how)
    one = found(volume, (1.5, 2.5, 1.5), (6.5, 5.5, 4.5))
    (group,) = content(objects_of(volume, one)["SR"]).get_volumetric_roi_measurement_groups()
    assert group.reference_type == codes.DCM.VolumeSurface
    assert (group.tracking_identifier, group.tracking_uid) == ("Nodule 1", one.tracking_uid)
    assert (group.finding_type.value, group.finding_sites[0].value.value) == ("27925004", "39607008")
    outlines = group.roi.graphic_data
    assert [places(points, volume)[0, 2] for points in outlines] == pytest.approx([2, 3, 4], abs=1e-4)
    for points in outlines:
        corners = {(round(x, 2), round(y, 2)) for x, y, _ in places(points, volume)}
        assert corners == {(x, y) for x in (1.5, 6.5) for y in (2.5, 5.5)}
    assert group.roi.frame_of_reference_uid == volume.grid.frame_of_reference_uid


def test_it_says_that_it_bounds_something_which_is_present_how_sure_it_is_and_how_large(volume: Volume) -> None:
    one = found(volume, (1.5, 2.5, 1.5), (6.5, 5.5, 4.5))
    (group,) = content(objects_of(volume, one)["SR"]).get_volumetric_roi_measurement_groups()
    said = {item.name.meaning: item.value for item in group.get_qualitative_evaluations()}
    assert said["Presence of property"] == codes.SCT.Present
    assert said["Geometric purpose of region"] == codes.SCT.BoundedBy
    numbers = {item.name.meaning: (item.value, item.unit.value) for item in group.get_measurements()}
    width, height, depth = one.box.size if one.box else (0, 0, 0)
    assert numbers == {
        "Certainty of Finding": (pytest.approx(50), "%"),
        "Width": (pytest.approx(width), "mm"),
        "Height": (pytest.approx(height), "mm"),
        "Depth": (pytest.approx(depth), "mm"),
    }


def test_a_box_on_one_slice_is_a_region_of_an_image(volume: Volume) -> None:
    report = objects_of(volume, found(volume, (1.5, 2.5, 2.8), (6.5, 5.5, 3.4)))["SR"]
    (group,) = content(report).get_planar_roi_measurement_groups()
    assert group.reference_type == codes.DCM.ImageRegion
    assert group.roi.graphic_type == hd.sr.GraphicTypeValues3D.POLYGON
    assert places(group.roi.value, volume)[:, 2] == pytest.approx(np.full(5, 3), abs=1e-4)


def test_ohif_is_told_of_the_outline_that_is_nearest_to_the_middle(volume: Volume) -> None:
    one, other = found(volume, (1.5, 2.5, 1.5), (6.5, 5.5, 4.5)), found(volume, (0.5, 1.5, 0.5), (2.5, 4.5, 6.5), 2)
    objects = objects_of(volume, one, other)
    assert list(objects) == ["SR", "SR 2"], "and there is no SEG of boxes"
    groups = content(objects["SR 2"]).get_image_measurement_groups()
    for group, said, middle in zip(groups, (one, other), (3, 4), strict=True):
        assert group.tracking_identifier == "Cornerstone3DTools@^0.1.0:RectangleROI"
        assert group.tracking_uid == said.tracking_uid
        (area,) = group.get_measurements()
        (line,) = area.referenced_coordinates
        width, height, _ = said.box.size if said.box else (0, 0, 0)
        assert (area.name.value, area.value) == ("42798000", pytest.approx(width * height, rel=1e-4))
        assert line.graphic_type == hd.sr.GraphicTypeValues3D.POLYLINE
        assert np.array_equal(line.value[0], line.value[-1])
        assert places(line.value, volume)[:, 2] == pytest.approx(np.full(5, middle), abs=1e-4)


def test_what_is_nowhere_is_said_to_be_absent(volume: Volume) -> None:
    nothing = Evaluation(NODULE, 0.12, "Nodule", derive_uid("test", "nothing"), calibrated=False)
    objects = objects_of(volume, nothing)
    assert list(objects) == ["SR"]
    (group,) = content(objects["SR"]).get_image_measurement_groups()
    (word,) = group.get_qualitative_evaluations(name=codes.DCM.PresenceOfProperty)
    assert word.value == codes.SCT.Absent


def test_a_box_beyond_the_images_is_no_result(volume: Volume) -> None:
    with pytest.raises(ResultInvalid, match="beyond the images"):
        objects_of(volume, found(volume, (1.5, 2.5, 30.0), (6.5, 5.5, 34.0)))


def _surface(group: Dataset) -> Dataset:
    return next(item for item in group.ContentSequence if item.ValueType == "SCOORD3D")


def _move(group: Dataset) -> None:
    item = _surface(group)
    item.GraphicData = [float(value) + 0.7 * (place % 3 == 2) for place, value in enumerate(item.GraphicData)]


def _open(group: Dataset) -> None:
    _surface(group).GraphicData = list(_surface(group).GraphicData)[:-3]


def _flatten(group: Dataset) -> None:
    _surface(group).GraphicData = list(_surface(group).GraphicData)[:3] * 5


def _stray(group: Dataset) -> None:
    _surface(group).ReferencedFrameOfReferenceUID = "1.2.3.4"


def _one_polygon(group: Dataset) -> None:
    others = [item for item in group.ContentSequence if item.ValueType == "SCOORD3D"][1:]
    group.ContentSequence = [item for item in group.ContentSequence if item not in others]


def _without(code: str) -> Callable[[Dataset], None]:
    def leave_out(group: Dataset) -> None:
        kept = [item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != code]
        group.ContentSequence = kept

    return leave_out


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (_move, "plane of the source"),
        (_open, "closed polygon"),
        (_flatten, "closed polygon"),
        (_stray, "ReferencedFrameOfReferenceUID"),
        (_one_polygon, "neither TID 1410"),
        (_without("130400"), "what its coordinates are"),
        (_without("121052"), "whether what is in it is present"),
        (_without("121232"), "source series"),
    ],
)
def test_a_box_that_was_tampered_with_is_no_result(volume: Volume, harm: Callable[[Dataset], None], why: str) -> None:
    report = objects_of(volume, found(volume, (1.5, 2.5, 1.5), (6.5, 5.5, 4.5)))["SR"]
    ds = encoded.read(report)
    container = next(item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    harm(container.ContentSequence[0])
    stream = io.BytesIO()
    ds.save_as(stream)
    with pytest.raises(ResultInvalid, match=why):
        check(replace(report, data=stream.getvalue()), volume)
