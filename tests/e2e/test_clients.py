"""Real clients against the whole server: dicomweb-client (Python and npm with dcmjs), Orthanc, curl.

Each is given a real series and must get back what it stored, byte for byte or pixel for pixel.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset

from e2e.server import Server, instances_of, renamed
from services import require_program, wait_until
from services.node import run_script
from services.orthanc import Orthanc

pytestmark = pytest.mark.service

EXPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("clients")) as server:
        # dicomweb-client for Python says Host without the port, so addresses cannot be made from what it asks
        server.environment["IMAGING_AI_HTTP_PUBLIC_URL"] = f"http://127.0.0.1:{server.http_port}"
        server.start("web")
        wait_until(lambda: _answers(server), 90, what=f"the web server answers\n{server.logs()}")
        yield server


def _answers(server: Server) -> bool:
    try:
        return server.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.http_port}/dicom-web"


@pytest.fixture
def head(real_data: Path, tmp_path: Path) -> list[Path]:
    """Five slices of an MR of a head, uncompressed, under UIDs of their own."""
    return list(renamed(instances_of(real_data / "mr-head-t1")[100:105], tmp_path / "head"))


@pytest.fixture
def abdomen(real_data: Path, tmp_path: Path) -> list[Path]:
    """Three slices of a CT of an abdomen in JPEG 2000, under UIDs of their own."""
    return list(renamed(instances_of(real_data / "ct-abdomen-slab")[:3], tmp_path / "abdomen"))


def read(paths: list[Path]) -> dict[str, Dataset]:
    return {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, paths)}


def same_pixels(got: Dataset, sent: Dataset) -> bool:
    return np.array_equal(got.pixel_array, sent.pixel_array)


class TestPythonDicomwebClient:
    """The client that scripts and libraries in Python use."""

    @pytest.fixture
    def client(self, url: str) -> DICOMwebClient:
        return DICOMwebClient(url)

    def test_it_finds_what_it_stored_at_every_level(self, client: DICOMwebClient, head: list[Path]) -> None:
        sent = read(head)
        first = next(iter(sent.values()))
        answer = client.store_instances(list(sent.values()))
        assert len(answer.ReferencedSOPSequence) == 5 and "FailedSOPSequence" not in answer
        study = str(first.StudyInstanceUID)
        (found,) = client.search_for_studies(search_filters={"StudyInstanceUID": study}, fields=["StudyDescription"])
        assert found["00201208"]["Value"] == [5]
        (series,) = client.search_for_series(study)
        assert series["0020000E"]["Value"] == [first.SeriesInstanceUID]
        instances = client.search_for_instances(study, search_filters={"SOPInstanceUID": first.SOPInstanceUID})
        assert [one["00080018"]["Value"] for one in instances] == [[first.SOPInstanceUID]]
        assert len(client.search_for_instances(study, get_remaining=True, limit=2)) == 5

    def test_it_retrieves_study_series_and_instance_as_they_were_stored(
        self, client: DICOMwebClient, abdomen: list[Path]
    ) -> None:
        sent = read(abdomen)
        client.store_instances(list(sent.values()))
        first = next(iter(sent.values()))
        study, series, instance = _place(first)
        as_stored = (("application/dicom", "*"),)
        for got in (
            client.retrieve_study(study, media_types=as_stored),
            client.retrieve_series(study, series, media_types=as_stored),
        ):
            assert {str(ds.SOPInstanceUID): ds for ds in got} == sent
            assert {ds.file_meta.TransferSyntaxUID for ds in got} == {JPEG_2000}
        assert client.retrieve_instance(study, series, instance) == first
        plain = client.retrieve_series(study, series)
        assert {ds.file_meta.TransferSyntaxUID for ds in plain} == {EXPLICIT}
        assert all(same_pixels(ds, sent[str(ds.SOPInstanceUID)]) for ds in plain)

    def test_it_retrieves_frames_metadata_and_bulk_data(self, client: DICOMwebClient, head: list[Path]) -> None:
        sent = read(head)
        client.store_instances(list(sent.values()))
        first = next(iter(sent.values()))
        study, series, instance = _place(first)
        assert client.retrieve_instance_frames(study, series, instance, [1]) == [first.PixelData]
        metadata = client.retrieve_instance_metadata(study, series, instance)
        ds = Dataset.from_json(metadata, bulk_data_uri_handler=lambda *_: b"")
        assert ds.Rows == first.Rows and ds.PatientID == first.PatientID
        assert ds.ImagePositionPatient == first.ImagePositionPatient
        assert client.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"]) == [first.PixelData]
        assert len(client.retrieve_study_metadata(study)) == len(client.retrieve_series_metadata(study, series)) == 5

    def test_it_decodes_frames_that_stay_compressed(self, client: DICOMwebClient, abdomen: list[Path]) -> None:
        sent = read(abdomen)
        client.store_instances(list(sent.values()))
        first = next(iter(sent.values()))
        (frame,) = client.retrieve_instance_frames(*_place(first), [1], media_types=(("image/jp2", JPEG_2000),))
        assert frame in first.PixelData
        (plain,) = client.retrieve_instance_frames(
            *_place(first), [1], media_types=(("application/octet-stream", EXPLICIT),)
        )
        assert np.array_equal(np.frombuffer(plain, first.pixel_array.dtype), first.pixel_array.ravel())

    def test_it_shows_rendered_images(self, client: DICOMwebClient, head: list[Path]) -> None:
        sent = read(head)
        client.store_instances(list(sent.values()))
        place = _place(next(iter(sent.values())))
        picture = client.retrieve_instance_rendered(*place, media_types=("image/png",), params={"viewport": "100,100"})
        assert picture.startswith(b"\x89PNG")
        assert client.retrieve_instance_frames_rendered(*place, [1], media_types=("image/jpeg",))[:2] == b"\xff\xd8"

    def test_it_deletes_an_instance_a_series_and_a_study(self, client: DICOMwebClient, head: list[Path]) -> None:
        sent = read(head)
        client.store_instances(list(sent.values()))
        study, series, instance = _place(next(iter(sent.values())))
        client.delete_instance(study, series, instance)
        assert len(client.search_for_instances(study)) == 4
        client.delete_series(study, series)
        assert client.search_for_series(study) == []
        client.store_instances(list(sent.values())[1:])
        client.delete_study(study)
        assert client.search_for_studies(search_filters={"StudyInstanceUID": study}) == []


def _place(ds: Dataset) -> tuple[str, str, str]:
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.timeout(400)
def test_the_npm_client_with_dcmjs_stores_finds_retrieves_and_shows_a_series(url: str, head: list[Path]) -> None:
    sent = read(head)
    first = pydicom.dcmread(head[0])
    got = run_script("dicomweb.mjs", url, *head)
    assert got["studies"] == [first.StudyInstanceUID]
    assert (got["series"], got["instances"]) == (1, 5)
    expected = {uid: digest(ds.PixelData) for uid, ds in sent.items()}
    for parts in (got["study"], got["seriesInstances"]):
        assert {part["uid"]: part["pixels"] for part in parts} == expected
        assert {part["transferSyntax"] for part in parts} == {EXPLICIT}
    assert got["instance"]["pixels"] == got["frame"] == got["bulk"] == expected[str(first.SOPInstanceUID)]
    assert got["rows"] == [first.Rows] * 5 and got["patient"] == str(first.PatientName)
    assert got["rendered"] == "89504e47" and got["thumbnail"] == "ffd8ff"


class TestOrthanc:
    """Orthanc's DICOMweb client, in both directions."""

    @pytest.fixture
    def peer(self, orthanc: Orthanc, url: str) -> Orthanc:
        """An empty Orthanc that knows us."""
        server = json.dumps({"Url": f"{url}/", "ChunkedTransfers": True, "HasDelete": True}).encode()
        httpx.put(f"{orthanc.web_url}/servers/us", content=server).raise_for_status()
        return orthanc

    @pytest.mark.parametrize("series", ["head", "abdomen"])
    def test_it_pushes_a_study_to_us_by_stow(
        self, peer: Orthanc, url: str, series: str, request: pytest.FixtureRequest
    ) -> None:
        paths = request.getfixturevalue(series)
        sent = read(paths)
        for path in paths:
            peer.upload(path)
        study = str(next(iter(sent.values())).StudyInstanceUID)
        done = peer.post("/dicom-web/servers/us/stow", {"Resources": [peer.lookup(study)], "Synchronous": True})
        assert int(done["InstancesCount"]) == len(sent)
        held = DICOMwebClient(url).retrieve_study(study, media_types=(("application/dicom", "*"),))
        assert {str(ds.SOPInstanceUID): ds for ds in held} == sent

    @pytest.mark.parametrize("series", ["head", "abdomen"])
    def test_it_pulls_a_study_from_us_by_qido_and_wado(
        self, peer: Orthanc, url: str, series: str, request: pytest.FixtureRequest
    ) -> None:
        sent = read(request.getfixturevalue(series))
        DICOMwebClient(url).store_instances(list(sent.values()))
        study = str(next(iter(sent.values())).StudyInstanceUID)
        query = {"Uri": "/studies", "Arguments": {"00100020": next(iter(sent.values())).PatientID}}
        found: dict[str, Any] = peer.post("/dicom-web/servers/us/qido", query)
        assert study in json.dumps(found)
        peer.post("/dicom-web/servers/us/retrieve", {"Resources": [{"Study": study}], "Synchronous": True})
        assert peer.count() == len(sent)
        for uid, ds in sent.items():
            assert same_pixels(pydicom.dcmread(BytesIO(peer.download(peer.lookup(uid)))), ds)


class TestCurl:
    """What a shell script can do."""

    def curl(self, *arguments: str | Path) -> tuple[int, bytes]:
        """Return status and body."""
        told = "\n%{http_code}"
        command = [require_program("curl"), "--silent", "--show-error", "--write-out", told, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status), body

    def test_it_stores_a_file_and_gets_the_same_bytes_back(self, url: str, abdomen: list[Path]) -> None:
        dicom = ("-H", "Content-Type: application/dicom")
        status, body = self.curl("--data-binary", f"@{abdomen[0]}", *dicom, f"{url}/studies")
        assert status == 200 and b"00081199" in body
        for whole in ("application/dicom; transfer-syntax=*", f"application/dicom; transfer-syntax={JPEG_2000}"):
            status, body = self.curl("-H", f"Accept: {whole}", self.place(url, abdomen[0]))
            assert status == 200 and body == abdomen[0].read_bytes()

    def test_it_stores_a_body_in_parts_of_which_it_does_not_know_the_length(
        self, url: str, head: list[Path], tmp_path: Path
    ) -> None:
        body = tmp_path / "body"
        parts = [b"--B\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n" for path in head]
        body.write_bytes(b"".join(parts) + b"--B--\r\n")
        multipart = 'Content-Type: multipart/related; type="application/dicom"; boundary=B'
        chunked = ("-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", body)
        status, answer = self.curl(*chunked, "-H", multipart, f"{url}/studies")
        assert status == 200 and len(json.loads(answer)["00081199"]["Value"]) == 5
        accept = 'Accept: multipart/related; type="application/dicom"'
        status, parts_again = self.curl("-H", accept, self.place(url, head[0]))
        assert status == 200 and pydicom.dcmread(head[0]).PixelData in parts_again

    def test_it_reads_a_range_of_bulk_data(self, url: str, head: list[Path]) -> None:
        self.curl("--data-binary", f"@{head[0]}", "-H", "Content-Type: application/dicom", f"{url}/studies")
        _, metadata = self.curl(f"{self.place(url, head[0])}/metadata")
        uri = json.loads(metadata)[0]["7FE00010"]["BulkDataURI"]
        octets = ("-H", "Accept: application/octet-stream")
        pixels = pydicom.dcmread(head[0]).PixelData
        assert self.curl(*octets, uri) == (200, pixels)
        assert self.curl(*octets, "--range", "1000-1999", uri) == (206, pixels[1000:2000])
        assert self.curl(*octets, "--range", "-10", uri) == (206, pixels[-10:])
        assert self.curl(*octets, "--range", "999999999-", uri)[0] == 416

    def test_it_gets_metadata_compressed(self, url: str, head: list[Path]) -> None:
        self.curl("--data-binary", f"@{head[0]}", "-H", "Content-Type: application/dicom", f"{url}/studies")
        place = f"{self.place(url, head[0])}/metadata"
        _, plain = self.curl(place)
        _, packed = self.curl("-H", "Accept-Encoding: gzip", place)
        assert len(packed) < len(plain) and gzip.decompress(packed) == plain
        assert self.curl("--compressed", place) == (200, plain)

    def place(self, url: str, path: Path) -> str:
        study, series, instance = _place(pydicom.dcmread(path, stop_before_pixels=True))
        return f"{url}/studies/{study}/series/{series}/instances/{instance}"
