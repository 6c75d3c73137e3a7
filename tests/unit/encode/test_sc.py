"""A picture comes back as it was drawn, and says which image of the source it shows."""

from __future__ import annotations

import numpy as np
import pytest

import encoded
import phantoms
from imaging_ai.core.finding import Picture
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.volume import read_volume


def drawn(rows: int = 5, columns: int = 7, k: int = 2) -> Picture:
    pixels = np.arange(rows * columns * 3, dtype=np.uint8).reshape(rows, columns, 3)
    return Picture(pixels, k, f"Lesion, slice {k + 1}")


def captures(volume: Volume, *pictures: Picture) -> list[EncodedObject]:
    return list(encoded.encode(volume, kinds=("SR", "SC"), pictures=pictures).values())[1:]


@pytest.mark.parametrize("size", [(5, 7), (4, 6)], ids=["odd", "even"])
def test_the_pixels_are_read_back_as_they_were_drawn(volume: Volume, size: tuple[int, int]) -> None:
    (obj,) = captures(volume, drawn(*size))
    check(obj, volume)
    assert np.array_equal(encoded.read(obj).pixel_array, drawn(*size).pixels)


def test_it_names_the_image_that_it_shows_and_nothing_of_the_patient_is_burned_in(volume: Volume) -> None:
    for obj, k in zip(captures(volume, drawn(k=5), drawn(k=1)), (5, 1), strict=True):
        ds = encoded.read(obj)
        (source,) = ds.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == volume.sources[k].sop_instance_uid
        (series,) = ds.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == volume.headers[0].SeriesInstanceUID
        assert ds.ImageComments == f"Lesion, slice {k + 1}"
        assert ds.BurnedInAnnotation == "NO"
        assert list(ds.PatientOrientation) == ["L", "P"]
        assert "ImagePositionPatient" not in ds and "FrameOfReferenceUID" not in ds


def test_pictures_are_one_series_in_their_order(volume: Volume) -> None:
    objects = captures(volume, drawn(k=5), drawn(k=1), drawn(k=3))
    assert len({obj.series_instance_uid for obj in objects}) == 1
    assert [encoded.read(obj).InstanceNumber for obj in objects] == [1, 2, 3]


def test_a_picture_of_a_multi_frame_source_names_the_frame() -> None:
    volume = read_volume([phantoms.to_bytes(phantoms.enhanced(phantoms.ball((4, 6, 8)), order=[2, 0, 3, 1]))])
    (obj,) = captures(volume, drawn(k=0))
    check(obj, volume)
    assert encoded.read(obj).SourceImageSequence[0].ReferencedFrameNumber == 2


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_not_red_green_and_blue_is_refused(volume: Volume, pixels: np.ndarray) -> None:
    with pytest.raises(ResultInvalid, match="red, green and blue"):
        captures(volume, Picture(pixels, 0, ""))


def test_nothing_found_has_no_picture(volume: Volume) -> None:
    objects = encoded.encode_all(volume, encoded.findings(volume.grid.shape, found=0, absent=2))
    assert list(objects) == ["SR", "PM", "KO"]
