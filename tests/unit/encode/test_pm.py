"""A map comes back value for value from where it was put, and says what its values are."""

from __future__ import annotations

import io
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest

import encoded
import phantoms
from imaging_ai.core.finding import Code
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.volume import read_volume


def map_of(volume: Volume, **options: object) -> EncodedObject:
    return encoded.encode(volume, kinds=("SR", "PM"), maps=[encoded.probability(volume, **options)])["PM"]


def test_pydicom_and_highdicom_read_every_value_back_bit_for_bit(
    objects: dict[str, EncodedObject], volume: Volume
) -> None:
    expected = encoded.probability(volume).values
    assert np.array_equal(encoded.read(objects["PM"]).pixel_array, expected)
    read = hd.imread(io.BytesIO(objects["PM"].data))
    assert np.array_equal(read.get_frames(apply_real_world_transform=True), expected)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"orientation": phantoms.OBLIQUE, "spacing": (2.5, 0.7, 1.3)},
        {"tilt_degrees": -18.5},
        {"orientation": phantoms.CORONAL, "reverse": True},
        {"orientation": phantoms.FLIPPED},
    ],
    ids=str,
)
def test_every_frame_lies_where_its_slice_does_along_the_normal_whatever_the_order_of_the_files(
    how: dict[str, object],
) -> None:
    volume = encoded.phantom_volume((5, 7, 9), **how)
    obj = map_of(volume)
    check(obj, volume)
    ds = encoded.read(obj)
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert position == pytest.approx(volume.grid.to_patient(np.array([[k, 0, 0]]))[0], abs=1e-3)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == volume.sources[k].sop_instance_uid
    header, shared = volume.headers[0], ds.SharedFunctionalGroupsSequence[0]
    cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert [str(each) for each in cosines] == [str(each) for each in header.ImageOrientationPatient]


def test_a_map_of_a_multi_frame_source_names_its_frames() -> None:
    ds = phantoms.enhanced(phantoms.ball((4, 6, 8)), order=[2, 0, 3, 1])
    volume = read_volume([phantoms.to_bytes(ds)])
    obj = map_of(volume)
    check(obj, volume)
    frames = encoded.read(obj).PerFrameFunctionalGroupsSequence
    named = [f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for f in frames]
    assert named == [source.frame_number for source in volume.sources] == [2, 4, 1, 3]


def test_it_says_what_it_maps_in_codes_and_in_words(volume: Volume) -> None:
    method = Code("130403", "DCM", "Gradient-weighted class activation")
    ds = encoded.read(map_of(volume, method=method, limits=(-1.0, 3.0)))
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    quantity, how = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeValue == "110854"
    assert how.ConceptCodeSequence[0].CodeMeaning == "Gradient-weighted class activation"
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert (mapping.LUTLabel, mapping.LUTExplanation) == ("probability", "Probability of Lesion")
    mapped = mapping.DoubleFloatRealWorldValueFirstValueMapped, mapping.DoubleFloatRealWorldValueLastValueMapped
    assert mapped == (-1, 3)
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    (window,) = ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (1, 4)
    assert ds.DerivationDescription == "Softmax of the network"
    assert ds.ContentDescription == "Probability of Lesion"
    assert (ds.Modality, ds.ContentQualification) == ("OT", "RESEARCH")


def test_two_maps_of_a_job_are_two_series(volume: Volume) -> None:
    maps = [encoded.probability(volume), encoded.probability(volume, name="activation")]
    one, other = (encoded.encode(volume, kinds=("SR", "PM"), maps=maps)[key] for key in ("PM", "PM 2"))
    assert one.series_instance_uid != other.series_instance_uid
    assert one.sop_instance_uid != other.sop_instance_uid
    assert encoded.read(other).SeriesDescription == "Lesion finder 1.2.0 PM activation"
    check(other, volume)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_values_beyond_the_limits_or_that_are_no_numbers_are_refused(volume: Volume, value: float) -> None:
    values = encoded.probability(volume).values.copy()
    values[3, 2, 1] = value
    with pytest.raises(ResultInvalid, match="not numbers from 0 to 1"):
        map_of(volume, values=values)


def test_a_map_on_another_grid_is_refused(volume: Volume) -> None:
    with pytest.raises(ResultInvalid, match="shape"):
        map_of(volume, values=np.zeros((2, 2, 2), np.float32))


def test_the_anatomy_is_the_sources_where_it_tells(volume: Volume) -> None:
    (anatomy,) = encoded.read(map_of(volume)).SharedFunctionalGroupsSequence[0].FrameAnatomySequence
    assert (anatomy.FrameLaterality, anatomy.AnatomicRegionSequence[0].CodeMeaning) == ("U", "Body part")
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    for ds in datasets:
        ds.Laterality, ds.AnatomicRegionSequence = "L", [hd.sr.CodedConcept("72696002", "SCT", "Knee")]
    knee = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    obj = map_of(knee)
    check(obj, knee)
    (anatomy,) = encoded.read(obj).SharedFunctionalGroupsSequence[0].FrameAnatomySequence
    assert (anatomy.FrameLaterality, anatomy.AnatomicRegionSequence[0].CodeMeaning) == ("L", "Knee")


def test_values_in_another_byte_order_or_layout_are_written_the_same(volume: Volume) -> None:
    values = encoded.probability(volume).values
    turned = np.asfortranarray(values.astype(">f4"))
    assert map_of(volume, values=turned).data == map_of(volume).data


def test_a_map_of_another_series_is_refused(objects: dict[str, EncodedObject]) -> None:
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(np.zeros((8, 11, 9), np.float32), name="other")]
    other = read_volume(files)
    for kind in ("PM", "SC", "SR 2"):
        with pytest.raises(ResultInvalid):
            check(objects[kind], other)
    with pytest.raises(ResultInvalid):
        check(objects["PM"], replace(other, headers=other.headers[:-1]))
