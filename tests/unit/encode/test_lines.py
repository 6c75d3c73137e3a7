"""The diameters of the report as lines in the patient, in the words that OHIF takes over as its own."""

from __future__ import annotations

import io

import highdicom as hd
import numpy as np
import pytest

import encoded
import phantoms
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check


def groups(obj: EncodedObject) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
    return list(hd.sr.srread(io.BytesIO(obj.data)).content.get_image_measurement_groups())


def test_each_finding_that_was_found_is_a_line_with_the_tracking_uid_of_its_segment(
    objects: dict[str, EncodedObject], volume: Volume
) -> None:
    segments = encoded.read(objects["SEG"]).SegmentSequence
    for group, segment in zip(groups(objects["SR 2"]), segments, strict=True):
        assert group.tracking_identifier == "Cornerstone3DTools@^0.1.0:Length"
        assert group.tracking_uid == segment.TrackingUID
        assert group.finding_type.value == segment.SegmentedPropertyTypeCodeSequence[0].CodeValue


@pytest.mark.parametrize(
    "how",
    [
        {"spacing": (4.0, 0.7, 1.3)},
        {"orientation": phantoms.OBLIQUE, "spacing": (2.0, 0.5, 0.9)},
        {"tilt_degrees": -18.5, "spacing": (5.0, 0.9, 0.6)},
    ],
    ids=str,
)
def test_a_line_is_as_long_as_its_number_and_as_the_long_axis_of_the_report(how: dict[str, object]) -> None:
    volume = encoded.phantom_volume((8, 12, 10), **how)
    objects = encoded.encode_all(volume)
    check(objects["SR 2"], volume)
    content = hd.sr.srread(io.BytesIO(objects["SR"].data)).content
    told = [group.get_measurements()[-1] for group in content.get_volumetric_roi_measurement_groups()]
    for group, axis in zip(groups(objects["SR 2"]), told, strict=True):
        (measurement,) = group.get_measurements()
        (line,) = measurement.referenced_coordinates
        first, second = line.value
        assert (measurement.name, measurement.unit) == (axis.name, axis.unit)
        assert measurement.value == axis.value == pytest.approx(np.linalg.norm(first - second), rel=1e-4)
        assert line.frame_of_reference_uid == volume.grid.frame_of_reference_uid


def test_the_report_itself_has_no_lines_and_the_lines_no_segment(objects: dict[str, EncodedObject]) -> None:
    assert b"SCOORD3D" not in objects["SR"].data
    assert objects["SEG"].sop_instance_uid.encode() not in objects["SR 2"].data


def test_without_a_diameter_there_is_no_document_of_lines(volume: Volume) -> None:
    assert list(encoded.encode(volume, lines=True)) == ["SEG", "SR"]
    nothing = encoded.findings(volume.grid.shape, found=0, absent=1)
    assert list(encoded.encode(volume, nothing, lines=True)) == ["SR"]
