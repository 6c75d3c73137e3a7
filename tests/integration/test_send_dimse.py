"""C-STORE to peers that are strange, slow, strict or broken: what is sent, and what is made of the answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from imaging_ai.errors import DeliveryRefused, DeliveryUnavailable
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.destinations import Destination
from imaging_ai.send.peer import connect, echo
from services.orthanc import OrthancFactory
from services.peers import CT, SEG, RecordingPeer, breaking_peer, dataset_bytes, read, small_object, stored, storescp


def dicom(port: int, **settings: object) -> Destination:
    table = {"name": "pacs", "ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout": 10}
    return Destination.parse({**table, **settings}, "test")


def send(destination: Destination, *paths: Path) -> list[Answer]:
    instances = [stored(path) for path in paths]
    with connect(destination, instances) as peer:
        return [peer.store(instance, read(instance)) for instance in instances]


def test_the_data_set_goes_out_byte_for_byte_in_one_association(real_data: Path) -> None:
    files = sorted((real_data / "ct-liver-seg").glob("*.dcm")) + sorted((real_data / "mr-head-t1").glob("*.dcm"))[:3]
    with RecordingPeer(sop_classes=(SEG, CT, stored(files[-1]).sop_class_uid)) as peer:
        answers = send(dicom(peer.port), *files)

    assert {answer.verdict for answer in answers} == {Verdict.STORED}
    assert peer.associations == 1
    assert [data for _, _, data in peer.received] == [dataset_bytes(file.read_bytes()) for file in files]
    assert [syntax for _, syntax, _ in peer.received] == [stored(file).transfer_syntax_uid for file in files]


def test_compressed_pixels_go_out_as_they_are(real_data: Path) -> None:
    file = next((real_data / "ct-abdomen-slab" / "dicom").rglob("*.dcm"))
    with RecordingPeer(transfer_syntaxes=(JPEG2000Lossless,)) as peer:
        send(dicom(peer.port), file)

    assert [data for _, _, data in peer.received] == [dataset_bytes(file.read_bytes())]


def test_a_peer_that_takes_only_implicit_little_endian_gets_it(real_data: Path) -> None:
    file = real_data / "ct-liver-seg" / "liver_SEG.dcm"
    with RecordingPeer(transfer_syntaxes=(ImplicitVRLittleEndian,)) as peer:
        (answer,) = send(dicom(peer.port), file)

    assert answer.verdict is Verdict.STORED
    ((_, syntax, data),) = peer.received
    assert syntax == ImplicitVRLittleEndian
    arrived, original = dcmread(BytesIO(data), force=True), dcmread(file)
    assert arrived.PixelData == original.PixelData
    del arrived.PixelData, original.PixelData  # whose value representation implicit VR does not tell
    assert arrived == original


def test_a_deflated_object_is_inflated_for_a_peer_that_does_not_inflate(tmp_path: Path) -> None:
    plain = dataset_bytes(small_object(tmp_path, SEG, "1.2.3.1").read_bytes())
    file = small_object(tmp_path, SEG, "1.2.3.1", transfer_syntax_uid=DeflatedExplicitVRLittleEndian)
    with RecordingPeer(transfer_syntaxes=(ExplicitVRLittleEndian,)) as peer:
        (answer,) = send(dicom(peer.port), file)

    assert answer.verdict is Verdict.STORED
    assert peer.received == [("1.2.3.1", ExplicitVRLittleEndian, plain)]


def test_a_compressed_object_is_refused_by_a_peer_that_takes_only_uncompressed_ones(real_data: Path) -> None:
    slab = next((real_data / "ct-abdomen-slab" / "dicom").rglob("*.dcm"))
    plain = real_data / "ct-liver-seg" / "01.dcm"
    with RecordingPeer(transfer_syntaxes=(ExplicitVRLittleEndian, ImplicitVRLittleEndian)) as peer:
        refused, taken = send(dicom(peer.port), slab, plain)

    assert refused.verdict is Verdict.PERMANENT
    assert "but not in transfer syntax 1.2.840.10008.1.2.4.90" in refused.reason
    assert taken.verdict is Verdict.STORED


def test_a_refused_sop_class_refuses_its_instance_only(tmp_path: Path) -> None:
    files = [small_object(tmp_path, SEG, "1.2.3.1"), small_object(tmp_path, CT, "1.2.3.2")]
    with RecordingPeer(sop_classes=(CT,)) as peer:
        seg, ct = send(dicom(peer.port), *files)

    assert seg.verdict is Verdict.PERMANENT
    assert f"does not accept SOP class {SEG}; enable it there" in seg.reason
    assert ct.verdict is Verdict.STORED


def test_a_peer_that_accepts_no_context_refuses_for_good(tmp_path: Path) -> None:
    file = small_object(tmp_path, SEG, "1.2.3.1")
    with RecordingPeer(sop_classes=(CT,)) as peer, pytest.raises(DeliveryRefused, match=f"none of .*{SEG}"):
        send(dicom(peer.port, check_back=False), file)


def test_an_unknown_calling_ae_title_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = small_object(tmp_path, SEG, "1.2.3.1")
    with (
        RecordingPeer(require_calling=("SOMEBODY",)) as peer,
        pytest.raises(DeliveryRefused, match="make IMAGINGAI known there"),
    ):
        send(dicom(peer.port), file)


@pytest.mark.service
def test_a_wrong_called_ae_title_is_refused_with_the_remedy(orthanc_factory: OrthancFactory, tmp_path: Path) -> None:
    strict = orthanc_factory(DicomCheckCalledAet=True)
    file = small_object(tmp_path, SEG, "1.2.3.1")

    with pytest.raises(DeliveryRefused, match="called AE title not recognized; set ae_title"):
        send(dicom(strict.dicom_port), file)
    with pytest.raises(DeliveryRefused, match="called AE title"):
        echo(dicom(strict.dicom_port))
    assert send(dicom(strict.dicom_port, ae_title="ORTHANC"), file)[0].verdict is Verdict.STORED


@pytest.mark.service
def test_an_orthanc_that_does_not_know_us_refuses_for_good(orthanc_factory: OrthancFactory, tmp_path: Path) -> None:
    closed = orthanc_factory(DicomAlwaysAllowStore=False, DicomAlwaysAllowEcho=False, DicomAlwaysAllowFind=False)
    file = small_object(tmp_path, SEG, "1.2.3.1")

    with pytest.raises(DeliveryRefused, match="make IMAGINGAI known there"):
        send(dicom(closed.dicom_port, ae_title="ORTHANC"), file)


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [
        (0xB000, Verdict.STORED, "coercion"),
        (0xB007, Verdict.STORED, "stored nevertheless"),
        (0xA700, Verdict.PASSING, "out of resources"),
        (0xA900, Verdict.PERMANENT, "does not match"),
        (0xC000, Verdict.DOUBTFUL, "cannot understand"),
        (0x0122, Verdict.PERMANENT, "not supported"),
    ],
)
def test_a_status_is_judged_and_its_reason_kept(tmp_path: Path, status: int, verdict: Verdict, words: str) -> None:
    file = small_object(tmp_path, SEG, "1.2.3.1")
    with RecordingPeer(answer=lambda _: status) as peer:
        (answer,) = send(dicom(peer.port), file)

    assert answer.verdict is verdict
    assert f"0x{status:04X}" in answer.reason
    assert words in answer.reason


def test_a_peer_that_vanishes_in_mid_transfer_is_a_passing_fault(real_data: Path) -> None:
    files = sorted((real_data / "ct-liver-seg").glob("0*.dcm"))
    instances = [stored(file) for file in files]
    with breaking_peer(after_bytes=800_000) as port, connect(dicom(port), instances) as peer:
        assert peer.store(instances[0], read(instances[0])).verdict is Verdict.STORED
        with pytest.raises(DeliveryUnavailable, match="was lost"):
            for instance in instances[1:]:
                peer.store(instance, read(instance))


def test_a_peer_that_does_not_answer_a_store_in_time_is_a_passing_fault(tmp_path: Path) -> None:
    file = small_object(tmp_path, SEG, "1.2.3.1")
    with (
        RecordingPeer(delay=3.0) as peer,
        pytest.raises(DeliveryUnavailable, match="did not answer in time"),
    ):
        send(dicom(peer.port, timeout=0.5), file)


def test_a_peer_that_stops_reading_is_noticed_by_its_silence(tmp_path: Path) -> None:
    file = large_object(tmp_path)
    with (
        breaking_peer(after_bytes=100_000, stalls=True) as port,
        pytest.raises(DeliveryUnavailable, match="the connection broke"),
    ):
        send(dicom(port, timeout=1.0), file)


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that accepts connections and never says a word, as a firewall or a web server may."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []
        thread = threading.Thread(target=lambda: kept.append(listener.accept()), daemon=True)
        thread.start()
        yield listener.getsockname()[1]


def test_a_port_that_does_not_speak_dicom_is_a_passing_fault_with_a_hint(mute_port: int) -> None:
    with pytest.raises(DeliveryUnavailable, match="is it DICOM"):
        echo(dicom(mute_port, timeout=0.5))


@pytest.mark.service
def test_storescp_takes_everything_and_cannot_be_asked(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "ct-liver-seg" / "liver_SEG.dcm"
    instance = stored(file)
    with storescp(tmp_path) as port, connect(dicom(port, ae_title="STORESCP"), [instance]) as peer:
        assert peer.store(instance, read(instance)).verdict is Verdict.STORED
        assert peer.holds([instance]) is None

    (arrived,) = tmp_path.iterdir()
    assert dcmread(arrived) == dcmread(file)


@pytest.mark.service
def test_no_answer_is_missed_however_fast_it_comes(tmp_path: Path) -> None:
    instance = stored(small_object(tmp_path, CT, "1.2.3.1"))
    data = read(instance)
    with storescp(tmp_path) as port, connect(dicom(port, timeout=5), [instance]) as peer:
        for _ in range(800):
            assert peer.store(instance, data).verdict is Verdict.STORED


def large_object(folder: Path) -> Path:
    """10 MB: more than sockets buffer."""
    path = small_object(folder, SEG, "1.2.3.1")
    ds = dcmread(path)
    ds.PixelData = bytes(range(256)) * 40_000
    ds["PixelData"].VR = "OB"
    ds.save_as(path)
    return path


def test_a_large_object_goes_to_a_peer_with_small_pdus(tmp_path: Path) -> None:
    path = large_object(tmp_path)
    with RecordingPeer() as peer:
        send(dicom(peer.port), path)

    assert peer.received[0][2] == dataset_bytes(path.read_bytes())
