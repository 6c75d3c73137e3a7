"""Results asked at `/rendered`: over the images of the archive, and alone when these are not there or not the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import encoded
import phantoms
from imaging_ai.archive.deletion import delete_instances
from imaging_ai.encode import EncodedObject
from imaging_ai.infer.volume import read_volume
from rendering import Web, open_web, path_of, pixels

SHAPE = (5, 24, 32)
CT = phantoms.series(phantoms.ball(SHAPE), name="rendered-results")
FOUND = encoded.findings(SHAPE, found=1, absent=0)


@pytest.fixture(scope="module")
def objects() -> dict[str, EncodedObject]:
    volume = read_volume([phantoms.to_bytes(ds) for ds in CT])
    return encoded.encode(volume, FOUND, kinds=("SEG", "SR", "PM"), maps=[encoded.probability(volume)])


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory, objects: dict[str, EncodedObject]) -> Iterator[Web]:
    with open_web(tmp_path_factory.mktemp("web")) as opened:
        opened.keep(*CT, *(bytes(obj.data) for obj in objects.values()))
        yield opened


def test_a_result_lies_over_its_image(web: Web, objects: dict[str, EncodedObject]) -> None:
    k = int(FOUND[0].region.slices[0])
    image = next(ds for ds in CT if float(ds.ImagePositionPatient[2]) == min_position() + 2.0 * k)
    plain = pixels(web.get(path_of(image) + "/rendered", "image/png").content)
    inside = FOUND[0].region.plane(k)
    seg = path_of(encoded.read(objects["SEG"]))
    for path in (f"{seg}/frames/1/rendered", f"{seg}/rendered"):
        answer = web.get(path, "image/png")
        over = pixels(answer.content)
        assert answer.status_code == 200
        assert np.array_equal(over[~inside], np.repeat(plain[~inside][:, None], 3, axis=1))
        assert (over[inside] != over[inside][:, :1]).any()
    heat = pixels(web.get(path_of(encoded.read(objects["PM"])) + f"/frames/{k + 1}/rendered", "image/png").content)
    assert heat.shape == (*SHAPE[1:], 3)
    moving = web.get(f"{seg}/rendered", "image/gif")
    assert moving.status_code == 200


def min_position() -> float:
    return min(float(ds.ImagePositionPatient[2]) for ds in CT)


def test_without_its_image_it_is_alone_and_no_pixel_of_a_deleted_image_is_kept(
    web: Web, objects: dict[str, EncodedObject]
) -> None:
    path = path_of(encoded.read(objects["SEG"])) + "/frames/1/rendered"
    assert pixels(web.get(path, "image/png").content).ndim == 3
    with web.archive.database.write() as session:
        delete_instances(session, [ds.SOPInstanceUID for ds in CT])
    alone = pixels(web.get(path, "image/png").content)
    assert np.array_equal(alone > 0, FOUND[0].region.plane(int(FOUND[0].region.slices[0])))
