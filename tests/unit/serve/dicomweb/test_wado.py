"""WADO-RS: which representation is given, and that it is the right one."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from sqlalchemy import select

import phantoms
from imaging_ai.archive.deletion import delete_instances, remove_deleted
from imaging_ai.archive.encoders import ENCODERS
from imaging_ai.archive.folder import FolderStore
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.identity import new_uid
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.serve.dicomweb import wado, wado_frames, wado_instances
from imaging_ai.serve.dicomweb.native import from_xml
from shelf import DICOM, ELE, OCTETS, OHIF, Shelf, pixels, shelf, split

IMPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
RLE, BASELINE, JPEG_LOSSLESS, JPEG_LS, J2K, HTJ2K = (
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{end}" for end in ("50", "70", "80", "90", "201")),
)
AUDIT = AuditEventRow.metadata.tables["audit_event"]
DOCUMENT = AuditEventRow.metadata.tables["instance_document"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Shelf]:
    with shelf(tmp_path) as opened:
        yield opened


def ct(count: int = 1, name: str = "wado") -> list[Dataset]:
    """A small CT series whose slices differ."""
    voxels = np.arange(count * 6 * 10, dtype=np.float32).reshape(count, 6, 10) * 3 - 90
    return phantoms.series(voxels, name=name)


def encapsulated(ds: Dataset, uid: str, frames: list[bytes]) -> Dataset:
    """The same instance with frames that are encoded already."""
    ds.file_meta.TransferSyntaxUID = UID(uid)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def jpeg_2000(ds: Dataset) -> Dataset:
    return encapsulated(ds, J2K, [bytes(imagecodecs.jpeg2k_encode(ds.pixel_array, reversible=True, codecformat="J2K"))])


def damaged(ds: Dataset) -> Dataset:
    """An instance whose codestream is nonsense."""
    return encapsulated(ds, J2K, [b"\xff\x4f\xff\x51" + bytes(60)])


def cut_short(ds: Dataset) -> Dataset:
    """An instance that says it has more frames than it has."""
    ds = jpeg_2000(ds)
    ds.NumberOfFrames = 3
    return ds


def multi_frame(frames: int = 4) -> Dataset:
    return phantoms.enhanced(np.arange(frames * 8 * 8, dtype=np.float32).reshape(frames, 8, 8), name="wado-multi")


def segmentation(frames: int = 3, size: int = 5) -> tuple[Dataset, np.ndarray[Any, Any]]:
    """Single-bit frames of 25 pixels: none but the first begins at a byte."""
    ds = multi_frame()
    mask = np.random.default_rng(1).integers(0, 2, (frames, size, size)).astype(np.uint8)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.66.4")
    ds.Rows = ds.Columns = size
    ds.NumberOfFrames, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = frames, 1, 1, 0, 0
    packed = np.packbits(mask.reshape(-1), bitorder="little").tobytes()
    ds.PixelData = packed + bytes(len(packed) % 2)
    ds["PixelData"].VR = "OB"
    return ds, mask


def report() -> Dataset:
    """An instance without pixels."""
    (ds,) = ct(name="report")
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.88.33")
    ds.Modality = "SR"
    return ds


def series_of(path: str) -> str:
    return path.partition("/instances/")[0]


def study_of(path: str) -> str:
    return path.partition("/series/")[0]


# -- instances


def test_a_series_comes_in_order_as_it_is_stored(server: Shelf) -> None:
    files = [phantoms.to_bytes(ds) for ds in ct(3)]
    path = server.put(*files)[0]
    for place in (series_of(path), study_of(path)):
        for accept in (None, "*/*", DICOM, f"{DICOM}; transfer-syntax={ELE}", f"{DICOM}; transfer-syntax=*"):
            parts = server.parts_of(place, accept)
            assert [part.body for part in parts] == files
            assert {part.content_type for part in parts} == {f"application/dicom; transfer-syntax={ELE}"}


def test_a_series_is_whole_whether_instances_are_small_large_to_be_decoded_or_not_in_memory(
    server: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = ct(8, name="mixed")
    series[3] = jpeg_2000(series[3])
    series[5].ImageComments = "large " * 1000
    files = [phantoms.to_bytes(ds) for ds in series]
    monkeypatch.setattr(wado_instances, "_AT_ONCE", len(files[5]) - 1)
    path = series_of(server.put(*files)[0])
    parts = server.parts_of(path, f"{DICOM}; transfer-syntax={ELE}")
    assert [part.body for part in parts if part.body not in files] == [parts[3].body]
    assert [part.dataset.InstanceNumber for part in parts] == [ds.InstanceNumber for ds in series]
    assert np.array_equal(pixels(parts[3].body), pixels(files[3]))
    stored = server.parts_of(path, f"{DICOM}; transfer-syntax=*")
    assert [part.body for part in stored] == files
    assert stored[3].content_type.endswith(J2K)
    monkeypatch.setattr(FolderStore, "fill_at_once", lambda *_: False)
    assert server.parts_of(path, f"{DICOM}; transfer-syntax=*") == stored


def test_an_instance_that_is_deleted_while_its_series_is_sent_is_left_out(
    server: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = ct(4, name="deleted")
    files = [phantoms.to_bytes(ds) for ds in series]
    path = series_of(server.put(*files)[0])
    real = FolderStore.fill_at_once

    def racing(store: FolderStore, ref: BlobRef, start: int, into: memoryview) -> bool:
        if len(into) == len(files[1]) and not deleted:
            deleted.append(ref)
            with server.parts.database.write() as session:
                delete_instances(session, [str(series[1].SOPInstanceUID)])
            remove_deleted(server.parts.database, store)
        return real(store, ref, start, into)

    deleted: list[BlobRef] = []
    monkeypatch.setattr(FolderStore, "fill_at_once", racing)
    assert [part.body for part in server.parts_of(path)] == [files[0], *files[2:]]
    assert deleted


def test_an_instance_comes_with_parts_or_alone(server: Shelf) -> None:
    (data,) = (phantoms.to_bytes(ds) for ds in ct())
    (path,) = server.put(data)
    assert server.parts_of(path)[0].body == data
    alone = server.get(path, "application/dicom")
    assert (alone.status_code, alone.content) == (200, data)
    assert alone.headers["content-type"] == f"application/dicom; transfer-syntax={ELE}"
    assert alone.headers["content-length"] == str(len(data))


def test_the_default_is_explicit_little_endian_whatever_is_stored(server: Shelf) -> None:
    (ds,) = ct()
    wanted = ds.pixel_array.copy()
    (path,) = server.put(jpeg_2000(ds))
    (part,) = server.parts_of(path, DICOM)
    assert part.content_type == f"application/dicom; transfer-syntax={ELE}"
    assert part.dataset.file_meta.TransferSyntaxUID == ELE
    assert part.dataset.SOPInstanceUID == ds.SOPInstanceUID, "nothing was lost: it is the same instance"
    assert np.array_equal(pixels(part.body), wanted)


def test_implicit_and_big_endian_are_written_again(server: Shelf, real_data: Path) -> None:
    for name in ("mr-head-t1/N2D_0001.dcm", "syntaxes/emri_small_big_endian.dcm"):
        data = (real_data / name).read_bytes()
        (path,) = server.put(data)
        (part,) = server.parts_of(path)
        assert part.dataset.file_meta.TransferSyntaxUID == ELE
        assert np.array_equal(pixels(part.body), pixels(data)), name
        assert server.parts_of(path, f"{DICOM}; transfer-syntax=*")[0].body == data


@pytest.mark.parametrize("uid", [IMPLICIT, BIG])
def test_implicit_and_big_endian_are_given_to_nobody_who_names_them(server: Shelf, uid: str) -> None:
    (path,) = server.put(*ct())
    for accept in (f"{DICOM}; transfer-syntax={uid}", f"application/dicom; transfer-syntax={uid}"):
        assert server.get(path, accept).status_code == 406
    assert server.get(f"{path}/frames/1", f"{OCTETS}; transfer-syntax={uid}").status_code == 406


@pytest.mark.parametrize("accept", ["1.2.840.10008.1.2.4.110", "1.2.3", "nonsense", "1.2.840.10008.1.2.4.102"])
def test_a_target_that_cannot_be_given_is_406(server: Shelf, accept: str) -> None:
    (path,) = server.put(*ct())
    answer = server.get(path, f"{DICOM}; transfer-syntax={accept}")
    assert (answer.status_code, answer.json()["code"]) == (406, "not-acceptable")


@pytest.mark.parametrize("place", [study_of, series_of])
def test_single_part_of_many_instances_is_406(server: Shelf, place: Any) -> None:
    path = place(server.put(*ct(2))[0])
    assert server.get(path, "application/dicom").status_code == 406
    assert len(server.parts_of(path, f"application/dicom, {DICOM};q=0.1")) == 2


@pytest.mark.parametrize("accept", ["image/tiff", "application/dicom+json", "multipart/related; type=image/jpeg"])
def test_other_media_types_are_406_and_the_answer_says_which_there_are(server: Shelf, accept: str) -> None:
    (path,) = server.put(*ct())
    answer = server.get(path, accept)
    assert answer.status_code == 406
    assert "application/dicom" in answer.json()["detail"]


def test_of_several_transfer_syntaxes_the_stored_one_comes_untouched(server: Shelf) -> None:
    data = phantoms.to_bytes(jpeg_2000(ct()[0]))
    (path,) = server.put(data)
    (part,) = server.parts_of(path, f"{DICOM}; transfer-syntax={RLE}, {DICOM}; transfer-syntax={J2K}")
    assert part.body == data
    (part,) = server.parts_of(path, f"{DICOM}; transfer-syntax={RLE}, {DICOM}; transfer-syntax={J2K};q=0.5")
    assert part.dataset.file_meta.TransferSyntaxUID == RLE, "unless the client prefers another"
    (part,) = server.parts_of(path, f"{DICOM}; transfer-syntax=1.2.3, {DICOM}; transfer-syntax=*;q=0.1")
    assert part.body == data, "what cannot be given falls back on the next"


@pytest.mark.parametrize("uid", sorted(ENCODERS))
def test_a_client_gets_every_transfer_syntax_that_can_be_encoded(server: Shelf, uid: str) -> None:
    (ds,) = ct()
    stored = ds.pixel_array.copy()
    lossy = bool(ENCODERS[uid].method)
    if lossy:  # which takes unsigned pixels of 8 bits
        stored = (stored - stored.min()).astype(np.uint8)
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, stored.tobytes()
    (path,) = server.put(ds)
    (part,) = server.parts_of(path, f"{DICOM}; transfer-syntax={uid}")
    assert part.content_type == f"application/dicom; transfer-syntax={uid}"
    given = pixels(part.body)
    if lossy:
        assert np.abs(given.astype(int) - stored).max() <= 6
        assert part.dataset.LossyImageCompression == "01"
        assert part.dataset.SOPInstanceUID != ds.SOPInstanceUID, "an image that lost something is another one"
        assert part.dataset.file_meta.MediaStorageSOPInstanceUID == part.dataset.SOPInstanceUID
        assert part.dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID
        assert part.dataset.ImageType[0] == "DERIVED"
    else:
        assert np.array_equal(given, stored)
        assert part.dataset.SOPInstanceUID == ds.SOPInstanceUID
        assert "LossyImageCompression" not in part.dataset or part.dataset.LossyImageCompression == "00"


def test_a_study_of_which_some_cannot_be_given_is_206(server: Shelf) -> None:
    datasets = ct(3)
    wanted = [datasets[0].pixel_array.copy(), datasets[2].pixel_array.copy()]
    path = study_of(server.put(jpeg_2000(datasets[0]), cut_short(datasets[1]), jpeg_2000(datasets[2]))[0])
    answer = server.get(path, DICOM)
    assert answer.headers["warning"].startswith('299 imaging-ai "1 instances cannot be given')
    parts = server.parts_of(path, DICOM, 206)
    assert all(np.array_equal(pixels(part.body), one) for part, one in zip(parts, wanted, strict=True))
    assert len(server.parts_of(path, f"{DICOM}; transfer-syntax=*")) == 3


def test_a_report_has_nothing_to_compress(server: Shelf) -> None:
    (path,) = server.put(report())
    assert server.get(path, f"{DICOM}; transfer-syntax={J2K}").status_code == 406
    assert server.parts_of(path)[0].dataset.Modality == "SR"


def test_a_damaged_codestream_is_406_alone_and_comes_as_stored_among_others(server: Shelf) -> None:
    good, bad = ct(2)
    bad = damaged(bad)
    stored = phantoms.to_bytes(bad)
    paths = server.put(good, stored)
    assert server.get(paths[1], "application/dicom").status_code == 406
    parts = server.parts_of(series_of(paths[0]), DICOM)
    assert [part.content_type.rpartition("=")[2] for part in parts] == [ELE, J2K]
    assert parts[1].body == stored


def test_video_comes_as_it_is_stored_to_who_names_no_transfer_syntax(server: Shelf) -> None:
    video = encapsulated(ct()[0], "1.2.840.10008.1.2.4.102", [b"moving pictures "])
    video.NumberOfFrames = 30
    stored = phantoms.to_bytes(video)
    (path,) = server.put(stored)
    assert server.parts_of(path, DICOM)[0].body == stored
    assert server.get(path, f"{DICOM}; transfer-syntax={ELE}").status_code == 406
    assert server.get(f"{path}/frames/1", OCTETS).status_code == 406
    (part,) = server.parts_of(f"{path}/pixeldata", 'multipart/related; type="video/mp4"')
    assert part.body == b"moving pictures "


# -- places


@pytest.mark.parametrize("rest", ["", "/metadata", "/frames/1", "/bulkdata", "/pixeldata", "/bulkdata/7FE00010"])
def test_unknown_places_are_404_and_malformed_ones_400(server: Shelf, rest: str) -> None:
    (path,) = server.put(*ct())
    assert server.get(path + rest).status_code == 200
    study, series, instance = path.split("/")[1::2]
    for places in (("9.9", series, instance), (study, "9.9", instance), (study, series, "9.9")):
        unknown = "studies/{}/series/{}/instances/{}".format(*places)
        assert server.get(unknown + rest).status_code == 404
    for bad in ("1.2.x", "a", "1..2", "1" * 65, "1.2%00", "1.2'--"):
        answer = server.get(f"studies/{study}/series/{series}/instances/{bad}{rest}")
        assert (answer.status_code, answer.json()["parameters"][0]["parameter"]) == (400, "instance")


def test_what_was_deleted_is_gone_at_once(server: Shelf) -> None:
    one, two = server.put(*ct(2))
    for path in (one, two):
        assert server.get(f"{path}/frames/1", OCTETS).status_code == 200
    assert server.client.delete(f"/dicom-web/{one}").status_code == 204
    for rest in ("", "/frames/1", "/metadata", "/bulkdata/7FE00010", "/bulkdata", "/pixeldata"):
        assert server.get(one + rest).status_code == 410
        assert server.get(two + rest).status_code == 200
    assert len(server.get(f"{series_of(one)}/metadata").json()) == 1
    assert server.client.delete(f"/dicom-web/{study_of(one)}").status_code == 204
    assert server.get(f"{series_of(one)}/metadata").status_code == 410
    server.put(*ct(2))
    assert len(server.parts_of(series_of(one))) == 2


def test_every_read_is_in_the_audit_once_for_each_series(server: Shelf) -> None:
    path = server.put(*ct(3))[0]
    for _ in range(2):
        server.get(f"{path}/frames/1", OHIF)
        server.get(f"{series_of(path)}/metadata")
    server.get(series_of(path))
    server.parts.accesses.flush()
    with server.parts.database.read() as session:
        rows = session.connection().execute(select(AUDIT).where(AUDIT.c.action.like("read-%"))).all()
    events = {row.action: (row.object_type, row.object_uid, row.detail) for row in rows}
    series = path.split("/")[3]
    assert events == {
        "read-frames": ("series", series, "2 times"),
        "read-metadata": ("series", series, "6 times"),
        "read-instances": ("series", series, "3 times"),
    }
    assert len(rows) == len(events)


# -- frames


def test_frames_come_in_the_order_asked_however_often(server: Shelf) -> None:
    ds = multi_frame(4)
    (path,) = server.put(ds)
    frames = [frame.tobytes() for frame in ds.pixel_array]
    parts = server.parts_of(f"{path}/frames/3,1,1,4", OCTETS)
    assert [part.body for part in parts] == [frames[2], frames[0], frames[0], frames[3]]
    assert {part.content_type for part in parts} == {f"application/octet-stream; transfer-syntax={ELE}"}


def test_frames_that_are_too_much_for_one_piece_come_as_the_same_parts(
    server: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = server.put(multi_frame(4))
    at_once = server.parts_of(f"{path}/frames/1,3", OCTETS)
    monkeypatch.setattr(wado_frames, "_AT_ONCE", 0)
    assert server.parts_of(f"{path}/frames/1,3", OCTETS) == at_once


@pytest.mark.parametrize("accept", [OHIF, OCTETS, 'multipart/related; type="*/*"', "*/*", None])
def test_the_frames_of_uncompressed_images_are_what_every_client_expects(server: Shelf, accept: str | None) -> None:
    (ds,) = ct()
    (path,) = server.put(ds)
    (part,) = server.parts_of(f"{path}/frames/1", accept)
    assert (part.body, part.content_type) == (ds.PixelData, f"application/octet-stream; transfer-syntax={ELE}")


def test_ohif_gets_compressed_frames_as_they_are_and_is_told_how_to_decode_them(server: Shelf) -> None:
    (ds,) = ct()
    codestream = bytes(imagecodecs.htj2k_encode(ds.pixel_array, reversible=True))
    wanted = ds.PixelData
    (path,) = server.put(encapsulated(ds, HTJ2K, [codestream]))
    (part,) = server.parts_of(f"{path}/frames/1", OHIF)
    assert part.body.rstrip(b"\0") == codestream
    assert part.content_type == f"application/octet-stream; transfer-syntax={HTJ2K}"
    (part,) = server.parts_of(f"{path}/frames/1", 'multipart/related; type="image/jphc"')
    assert part.content_type == f"image/jphc; transfer-syntax={HTJ2K}"
    (part,) = server.parts_of(f"{path}/frames/1", 'multipart/related; type="*/*"; transfer-syntax=*')
    assert part.content_type == f"image/jphc; transfer-syntax={HTJ2K}"
    (part,) = server.parts_of(f"{path}/frames/1", OCTETS)
    assert part.body == wanted, "without a transfer syntax frames are uncompressed"


@pytest.mark.parametrize(
    ("media_type", "uid", "decode"),
    [
        ("image/jls", JPEG_LS, imagecodecs.jpegls_decode),
        ("image/jp2", J2K, imagecodecs.jpeg2k_decode),
        ("image/jphc", HTJ2K, imagecodecs.htj2k_decode),
        ("image/jpeg", JPEG_LOSSLESS, imagecodecs.jpeg_decode),
    ],
)
def test_frames_are_encoded_in_the_default_of_an_image_type(
    server: Shelf, media_type: str, uid: str, decode: Any
) -> None:
    (ds,) = ct()
    (path,) = server.put(ds)
    for accept in (media_type, f"{media_type}; transfer-syntax={uid}"):
        alone = server.get(f"{path}/frames/1", accept)
        assert alone.status_code == 200
        assert alone.headers["content-type"] == f"{media_type}; transfer-syntax={uid}"
        assert np.array_equal(np.asarray(decode(alone.content)).view(np.int16), ds.pixel_array)
    assert server.get(f"{path}/frames/1", f"{media_type}; transfer-syntax={RLE}").status_code == 406


def test_a_single_frame_comes_alone_and_several_do_not(server: Shelf) -> None:
    ds = multi_frame(2)
    (path,) = server.put(ds)
    alone = server.get(f"{path}/frames/2", "application/octet-stream")
    assert (alone.status_code, alone.content) == (200, ds.pixel_array[1].tobytes())
    assert server.get(f"{path}/frames/1,2", "application/octet-stream").status_code == 406


def test_the_accept_parameter_beats_the_header(server: Shelf) -> None:
    (ds,) = ct()
    (path,) = server.put(ds)
    assert server.get(f"{path}/frames/1?accept=application/octet-stream", "image/jls").content == ds.PixelData
    answer = server.get(f"{path}/frames/1", "image/png, image/jls;q=0.1, application/octet-stream;q=0.9")
    assert answer.headers["content-type"].startswith("application/octet-stream")
    answer = server.get(f"{path}/frames/1", "application/octet-stream;q=0, image/jls;q=0.1")
    assert answer.headers["content-type"].startswith("image/jls")


def test_frames_of_single_bits_begin_at_their_own_first_byte(server: Shelf) -> None:
    ds, mask = segmentation()
    (path,) = server.put(ds)
    for number, part in enumerate(server.parts_of(f"{path}/frames/1,2,3", OCTETS)):
        assert part.body == np.packbits(mask[number].reshape(-1), bitorder="little").tobytes()


def test_big_endian_and_deflated_frames_come_little_endian(server: Shelf, real_data: Path) -> None:
    wanted = pydicom.dcmread(real_data / "syntaxes/emri_small.dcm").pixel_array
    (path,) = server.put((real_data / "syntaxes/emri_small_big_endian.dcm").read_bytes())
    for number in (1, 10):
        (part,) = server.parts_of(f"{path}/frames/{number}", OHIF)
        assert part.body == wanted[number - 1].tobytes()
        assert part.content_type.endswith(f"transfer-syntax={ELE}")
    (ds,) = ct(name="deflated")
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    (path,) = server.put(ds)
    for _ in range(2):
        assert server.parts_of(f"{path}/frames/1", OHIF)[0].body == ds.PixelData
    assert server.get(f"{path}/frames/2", OHIF).status_code == 404


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in memory")
def test_a_frame_in_memory_is_the_same_as_one_that_is_read_and_wakes_no_thread(
    server: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragments = encapsulated(ct(name="fragments")[0], J2K, [b"\xff\x4f\xff\x51" + bytes(60)])
    fragments.PixelData = encapsulate([bytes(range(200))], fragments_per_frame=3)
    native, many, fragmented = server.put(ct()[0], multi_frame(), fragments)
    asked = [
        (f"{native}/frames/1", OHIF),
        (f"{native}/frames/1", 'application/octet-stream; transfer-syntax="*"'),
        (f"{many}/frames/3", OCTETS),
        (f"{fragmented}/frames/1", OHIF),
    ]
    before = [server.get(*one) for one in asked]
    monkeypatch.setattr(wado, "sync_to_thread", None)
    for one, answer in zip(asked, before, strict=True):
        again = server.get(*one)
        assert again.status_code == answer.status_code == 200
        assert set(again.headers) == set(answer.headers), "nothing is left out because it is quick"
        assert again.headers["cache-control"] == "private, no-cache"
        if "multipart" in answer.headers["content-type"]:
            assert split(again) == split(answer)
        else:
            assert (again.content, again.headers) == (answer.content, answer.headers)


@pytest.mark.parametrize("frames", ["0", "2", "1,2", "999999999", "1,0"])
def test_frames_that_do_not_exist_are_404(server: Shelf, frames: str) -> None:
    (path,) = server.put(*ct())
    assert [server.get(f"{path}/frames/{frames}", OCTETS).status_code for _ in range(2)] == [404, 404]


@pytest.mark.parametrize(
    "frames", ["-1", "1,", "a", "1;2", "1.5", ",", "1" * 30, "%D9%A1", "1-3", ",".join("1" * 10_001)]
)
def test_lists_that_are_none_are_400(server: Shelf, frames: str) -> None:
    (path,) = server.put(*ct())
    answer = server.get(f"{path}/frames/{frames}", OCTETS)
    assert (answer.status_code, answer.json()["parameters"][0]["parameter"]) == (400, "frames")


def test_instances_without_frames_have_none(server: Shelf) -> None:
    (path,) = server.put(report())
    assert server.get(f"{path}/frames/1", OCTETS).status_code == 404


def test_frames_that_cannot_be_decoded_are_406_and_come_as_stored(server: Shelf) -> None:
    (path,) = server.put(damaged(ct()[0]))
    assert server.get(f"{path}/frames/1", OCTETS).status_code == 406
    assert server.parts_of(f"{path}/frames/1", OHIF)[0].body.startswith(b"\xff\x4f")
    (path,) = server.put(cut_short(ct(name="short")[0]))
    assert server.parts_of(f"{path}/frames/1", OHIF)
    assert server.get(f"{path}/frames/2", OHIF).status_code == 404


# -- metadata


def test_metadata_is_one_array_on_every_level(server: Shelf) -> None:
    datasets = ct(3)
    path = server.put(*datasets)[0]
    uids = [ds.SOPInstanceUID for ds in datasets]
    for place, wanted in ((study_of(path), uids), (series_of(path), uids), (path, uids[:1])):
        answer = server.get(f"{place}/metadata")
        assert answer.headers["content-type"] == "application/dicom+json"
        assert [one["00080018"]["Value"][0] for one in answer.json()] == wanted
    for accept in ("application/json", "application/dicom+json, application/json;q=0.5"):
        assert server.get(f"{path}/metadata", accept).json()[0]["00080018"]["Value"] == uids[:1]
    assert server.get(f"{path}/metadata", "image/tiff").status_code == 406


def test_metadata_comes_in_xml_with_one_part_for_each_instance(server: Shelf) -> None:
    datasets = ct(2)
    path = series_of(server.put(*datasets)[0])
    parts = server.parts_of(f"{path}/metadata", 'multipart/related; type="application/dicom+xml"')
    in_json = server.get(f"{path}/metadata").json()
    assert [from_xml(part.body)["00080018"] for part in parts] == [one["00080018"] for one in in_json]
    assert from_xml(parts[0].body)["7FE00010"]["BulkDataURI"] == in_json[0]["7FE00010"]["BulkDataURI"]


@pytest.mark.parametrize("coding", ["", "gzip", "zstd", "gzip, deflate, br, zstd", "gzip;q=0"])
def test_metadata_is_compressed_for_who_takes_it(server: Shelf, coding: str) -> None:
    path = series_of(server.put(*ct(5))[0])
    plain = server.get(f"{path}/metadata").content
    for _ in range(2):  # made, and remembered
        with server.client.stream("GET", f"/dicom-web/{path}/metadata", headers={"accept-encoding": coding}) as answer:
            body = b"".join(answer.iter_raw())
        used = answer.headers.get("content-encoding", "")
        assert used == {"": "", "gzip": "gzip", "gzip;q=0": ""}.get(coding, "zstd")
        unpacked = {"": bytes, "gzip": gzip.decompress, "zstd": imagecodecs.zstd_decode}[used](body)
        assert unpacked == plain


def test_who_holds_the_metadata_gets_304_until_it_changes(server: Shelf) -> None:
    one, two = ct(2)
    path = series_of(server.put(one)[0])
    etag = server.get(f"{path}/metadata").headers["etag"]
    for held in (etag, f'"other", W/{etag}', "*"):
        again = server.get(f"{path}/metadata", if_none_match=held)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    server.put(two)
    changed = server.get(f"{path}/metadata", if_none_match=etag)
    assert (changed.status_code, len(changed.json())) == (200, 2)


def test_documents_of_an_earlier_version_are_read(server: Shelf) -> None:
    path = server.put(*ct())[0]
    (wanted,) = server.get(f"{series_of(path)}/metadata").json()
    earlier = {**wanted, "00204000": {"vr": "LT", "Value": ["in zlib"]}}
    relative = json.dumps(earlier, separators=(",", ":")).replace(
        f"http://server.local:8080/dicom-web/{series_of(path)}/", ""
    )
    with server.parts.database.write() as session:
        session.connection().execute(DOCUMENT.update().values(metadata_json=zlib.compress(relative.encode())))
    in_xml = server.parts_of(f"{path}/metadata", 'multipart/related; type="application/dicom+xml"')
    assert from_xml(in_xml[0].body)["7FE00010"]["BulkDataURI"] == wanted["7FE00010"]["BulkDataURI"]
    server.put(*ct(2)[1:])  # what was remembered is another answer than this
    assert server.get(f"{series_of(path)}/metadata").json()[0] == earlier


def test_a_large_study_streams_and_is_whole(server: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    from imaging_ai.serve.dicomweb import wado_metadata

    path = study_of(server.put(*ct(7))[0])
    plain = server.get(f"{path}/metadata").content
    monkeypatch.setattr(wado_metadata, "_AT_ONCE", 3)
    monkeypatch.setattr(wado_metadata, "_PAGE", 2)
    assert server.get(f"{path}/metadata").content == plain
    with server.client.stream("GET", f"/dicom-web/{path}/metadata", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    engine = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert engine.decompress(packed) == plain
    assert engine.eof and not engine.unused_data, "browsers read one member only"


# -- bulk data


def uris(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["BulkDataURI"]] if "BulkDataURI" in value else [])
        for one in value.values():
            yield from uris(one)
    elif isinstance(value, list):
        for one in value:
            yield from uris(one)


def with_bulk(ds: Dataset) -> tuple[Dataset, dict[str, bytes]]:
    """An instance with large values in other places than pixel data."""
    values = {"00091010": bytes(range(256)) * 8, "00282000": b"profile " * 300}
    block = ds.private_block(0x0009, "imaging-ai tests", create=True)
    block.add_new(0x10, "OB", values["00091010"])
    ds.ICCProfile = values["00282000"]
    item = Dataset()
    item.BitsAllocated, item.PixelData = 16, bytes(range(200)) * 20
    item["PixelData"].VR = "OW"
    ds.IconImageSequence = [item]
    values["00880200/1/7FE00010"] = item.PixelData
    values["7FE00010"] = ds.PixelData
    return ds, values


def test_every_bulk_data_uri_is_absolute_and_leads_to_its_value(server: Shelf) -> None:
    ds, values = with_bulk(ct()[0])
    (path,) = server.put(ds)
    found = list(uris(json.loads(server.get(f"{path}/metadata").content)))
    assert len(found) == len(values)
    for uri in found:
        assert uri.startswith(f"http://server.local:8080/dicom-web/{path}/bulkdata/")
        wanted = values[uri.partition("/bulkdata/")[2]]
        answer = server.client.get(uri, headers={"accept": "application/octet-stream"})
        assert (answer.status_code, answer.content) == (200, wanted)
        for accept in (None, "*/*", OCTETS, 'multipart/related; type="*/*"'):
            (part,) = server.parts_of(uri.partition("/dicom-web/")[2], accept)
            assert part.body == wanted
            assert part.headers["content-location"] == uri


def test_bulk_data_of_all_real_files_dereferences(server: Shelf, real_data: Path) -> None:
    count = 0
    for file in sorted((real_data / "syntaxes").glob("*.dcm"))[::3]:
        try:
            (path,) = server.put(file.read_bytes())
        except Exception:  # not everything there is an instance that an archive takes
            continue
        for uri in uris(server.get(f"{path}/metadata").json()):
            assert server.client.get(uri, headers={"accept": "*/*"}).status_code == 200, (file.name, uri)
            count += 1
    assert count > 10


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=0-99999", 0, None),
    ],
)
def test_a_range_is_206(server: Shelf, asked: str, first: int, last: int | None) -> None:
    ds, values = with_bulk(ct()[0])
    (path,) = server.put(ds)
    whole = values["00091010"]
    for accept in (None, "application/octet-stream"):
        answer = server.get(f"{path}/bulkdata/00091010", accept, range=asked)
        wanted = whole[first:] if last is None else whole[first : last + 1]
        begin = first % len(whole)
        assert (answer.status_code, answer.content) == (206, wanted)
        assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(wanted) - 1}/{len(whole)}"
    assert server.get(f"{path}/bulkdata/00091010", OCTETS, range=asked).status_code == 200


def test_a_range_of_a_stored_instance_is_206(server: Shelf) -> None:
    (data,) = (phantoms.to_bytes(ds) for ds in ct())
    (path,) = server.put(data)
    answer = server.get(path, "application/dicom", range="bytes=128-131")
    assert (answer.status_code, answer.content) == (206, b"DICM")
    assert answer.headers["content-range"] == f"bytes 128-131/{len(data)}"
    assert server.get(path, "application/dicom", range=f"bytes={len(data)}-").status_code == 416
    assert server.get(path, DICOM, range="bytes=128-131").status_code == 200


@pytest.mark.parametrize("asked", ["bytes=1-0", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=a-b", "bytes=-"])
def test_what_is_no_range_is_ignored(server: Shelf, asked: str) -> None:
    (ds,) = ct()
    (path,) = server.put(ds)
    answer = server.get(f"{path}/bulkdata/7FE00010", "application/octet-stream", range=asked)
    assert (answer.status_code, answer.content) == (200, ds.PixelData)


@pytest.mark.parametrize("asked", ["bytes=99999-", "bytes=-0", "bytes=9999999999999999999-"])
def test_a_range_past_the_end_is_416(server: Shelf, asked: str) -> None:
    (path,) = server.put(*ct())
    assert server.get(f"{path}/bulkdata/7FE00010", "application/octet-stream", range=asked).status_code == 416


def test_ranges_of_big_endian_values_are_little_endian(server: Shelf, real_data: Path) -> None:
    (path,) = server.put((real_data / "syntaxes/emri_small_big_endian.dcm").read_bytes())
    wanted = pydicom.dcmread(real_data / "syntaxes/emri_small.dcm").PixelData
    octets = "application/octet-stream"
    assert server.get(f"{path}/bulkdata/7FE00010", octets).content == wanted
    assert server.get(f"{path}/bulkdata/7FE00010", octets, range="bytes=4097-4099").content == wanted[4097:4100]


def test_compressed_pixel_data_comes_native_or_frame_by_frame(server: Shelf) -> None:
    ds = multi_frame(3)
    wanted = ds.PixelData
    frames = [bytes(imagecodecs.jpegls_encode(frame.view(np.uint16))) for frame in ds.pixel_array]
    (path,) = server.put(encapsulated(ds, JPEG_LS, frames))
    for rest in ("bulkdata/7FE00010", "pixeldata"):
        (part,) = server.parts_of(f"{path}/{rest}", OCTETS)
        assert part.body == wanted
        parts = server.parts_of(f"{path}/{rest}", 'multipart/related; type="image/jls"')
        assert [part.body.rstrip(b"\0") for part in parts] == [frame.rstrip(b"\0") for frame in frames]
        assert {part.headers["content-location"] for part in parts} == {
            f"http://server.local:8080/dicom-web/{path}/bulkdata/7FE00010"
        }
    assert server.get(f"{path}/bulkdata/7FE00010", "application/octet-stream").content == wanted
    assert server.get(f"{path}/bulkdata/7FE00010", "image/jls").status_code == 406


def test_collections_hold_the_values_of_all_instances(server: Shelf) -> None:
    datasets = [with_bulk(ds) for ds in ct(2)]
    path = server.put(*(ds for ds, _ in datasets))[0]
    for place, wanted in ((study_of(path), datasets), (series_of(path), datasets), (path, datasets[:1])):
        parts = server.parts_of(f"{place}/bulkdata")
        told = [(part.headers["content-location"].partition("/bulkdata/")[2], part.body) for part in parts]
        assert sorted(told) == sorted(one for _, values in wanted for one in values.items())
        assert [part.body for part in server.parts_of(f"{place}/pixeldata")] == [ds.PixelData for ds, _ in wanted]
    assert server.get(f"{path}/bulkdata", "application/octet-stream").status_code == 406


def test_there_is_no_bulk_data_where_there_is_none(server: Shelf) -> None:
    (path,) = server.put(report())
    for rest in ("bulkdata", "pixeldata", "bulkdata/7FE00010", "bulkdata/../../etc/passwd", "bulkdata/00080018"):
        assert server.get(f"{path}/{rest}").status_code == 404


# -- hostile


@pytest.mark.parametrize(
    "accept",
    [
        "nonsense",
        'multipart/related; type="',
        ";;;",
        "multipart/related; type=application/dicom; transfer-syntax=",
        "multipart/related; type=application/dicom; q=x",
        "a/b," * 100,
        "x" * 10_000,
        'multipart/related; type="application/dicom"; transfer-syntax="\\""',
    ],
)
def test_no_accept_header_makes_a_5xx(server: Shelf, accept: str) -> None:
    (path,) = server.put(*ct())
    for rest in ("", "/metadata", "/frames/1", "/bulkdata/7FE00010", "/pixeldata"):
        assert server.get(path + rest, accept).status_code in (200, 400, 406)


def test_another_instance_of_a_uid_is_given_after_it_was_replaced(tmp_path: Path) -> None:
    with shelf(tmp_path, conflict="replace") as server:
        (ds,) = ct()
        (path,) = server.put(ds)
        assert server.parts_of(f"{path}/frames/1", OCTETS)[0].body == ds.PixelData
        ds.PixelData = bytes(reversed(ds.PixelData))
        ds.add_new(0x00204000, "LT", "another length " + new_uid())
        server.put(ds)
        assert server.parts_of(f"{path}/frames/1", OCTETS)[0].body == ds.PixelData
        assert server.get(f"{path}/metadata").json()[0]["00204000"]["Value"] == [ds.ImageComments]
