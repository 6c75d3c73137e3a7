"""JPEG in strips: whatever their number, the picture is the one that is encoded in one piece."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imaging_ai.render.jpeg import Subsampling, encode_jpeg


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(512, 512), (701, 1001), (513, 700, 3), (3, 200_000 // 4), (4, 65_500)])
@pytest.mark.parametrize("subsampling", ["444", "420"])
@pytest.mark.parametrize("strips", [2, 3, 16])
def test_strips_decode_to_the_same_pixels(shape: tuple[int, ...], subsampling: Subsampling, strips: int) -> None:
    picture = noise(*shape)
    with ThreadPoolExecutor(2) as threads:
        file = encode_jpeg(picture, 90, subsampling, threads, strips)
    whole = encode_jpeg(picture, 90, subsampling)
    assert np.array_equal(imagecodecs.jpeg8_decode(file), imagecodecs.jpeg8_decode(whole))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(Image.open(io.BytesIO(whole))))


def test_large_pictures_have_as_many_strips_as_their_restart_interval_needs() -> None:
    picture = noise(2400, 4096)
    with ThreadPoolExecutor(2) as threads:
        file = encode_jpeg(picture, 90, "444", threads, 2)
    assert file.count(b"\xff\xd0") == 1 and file.count(b"\xff\xd1") == 1  # 65,535 units are 127 rows of them
    assert np.array_equal(imagecodecs.jpeg8_decode(file), imagecodecs.jpeg8_decode(encode_jpeg(picture, 90, "444")))


def test_a_small_picture_is_one_piece() -> None:
    with ThreadPoolExecutor(2) as threads:
        assert encode_jpeg(noise(128, 128), 90, "444", threads, 4) == encode_jpeg(noise(128, 128), 90, "444")


def test_threads_that_are_busy_are_not_waited_for() -> None:
    held = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(held.wait, 60)
        file = encode_jpeg(noise(512, 512), 90, "444", threads, 2)
        held.set()
    assert imagecodecs.jpeg8_decode(file).shape == (512, 512)
