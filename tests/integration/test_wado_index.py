"""WADO-RS over both kinds of index, before and after the describer, with many readers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import phantoms
from imaging_ai.archive.describer import Describer
from shelf import OCTETS, OHIF, Shelf, shelf


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with shelf(tmp_path, url) as opened:
        yield opened


def study(server: Shelf, count: int = 5) -> tuple[str, list[bytes]]:
    """Two series of one study; return its path and its files in the order they are to come."""
    first = phantoms.series(np.arange(count * 48, dtype=np.float32).reshape(count, 6, 8), name="wado")
    scout = phantoms.localizer(first[0])
    scout.SeriesInstanceUID, scout.SeriesNumber = f"{scout.SeriesInstanceUID}.9"[-64:].lstrip("."), 99
    files = [phantoms.to_bytes(ds) for ds in (*first, scout)]
    paths = server.put(*reversed(files))
    return paths[0].partition("/series/")[0], files


def test_instances_come_by_series_and_instance_number_whatever_their_order_of_arrival(server: Shelf) -> None:
    path, files = study(server)
    assert [part.body for part in server.parts_of(path)] == files
    told = [one["00080018"]["Value"][0] for one in server.get(f"{path}/metadata").json()]
    assert told == [part.dataset.SOPInstanceUID for part in server.parts_of(path)]


def test_frames_metadata_and_bulk_data_are_the_same_before_and_after_the_describer(server: Shelf) -> None:
    path, _ = study(server)
    part = server.parts_of(path)[0].dataset
    place = f"{path}/series/{part.SeriesInstanceUID}/instances/{part.SOPInstanceUID}"

    def answers() -> list[bytes]:
        frame = server.parts_of(f"{place}/frames/1", OHIF)[0].body
        value = server.get(f"{place}/bulkdata/7FE00010", "application/octet-stream").content
        return [frame, value, server.get(f"{path}/metadata").content]

    before = answers()
    Describer(server.parts.database, server.parts.archive.store).describe_pending()
    assert answers() == before
    assert before[0] == before[1] == part.PixelData
    assert server.client.delete(f"/dicom-web/{place}").status_code == 204
    assert server.get(f"{place}/frames/1", OHIF).status_code == 410
    assert server.get("studies/1.2.3/metadata").status_code == 404


def test_many_readers_at_once_get_their_own_frames(server: Shelf) -> None:
    path, _ = study(server, 8)
    places = {}
    for part in server.parts_of(path):
        ds = part.dataset
        places[f"{path}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}/frames/1"] = ds.PixelData
    wrong = list[str]()
    lock = threading.Lock()

    def read(place: str) -> None:
        if server.parts_of(place, OCTETS)[0].body != places[place]:
            with lock:
                wrong.append(place)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, list(places) * 8))
    assert not wrong
