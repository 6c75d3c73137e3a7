"""The checks of `imaging-ai doctor`, on parts that work and parts that do not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imaging_ai import audit, doctor
from imaging_ai.archive.blobs import open_store
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import AuditEventRow
from imaging_ai.errors import BrokerUnavailable, ConfigError, ModelFailed
from imaging_ai.send.destinations import Destination
from services import free_port
from services.orthanc import Orthanc, OrthancFactory
from services.peers import CT, SEG, SR, RecordingPeer


def dicom(port: int, ae_title: str = "PEER") -> Destination:
    return Destination.parse({"name": "pacs", "ae_title": ae_title, "host": "localhost", "port": port}, "test")


@pytest.mark.service
def test_orthanc_as_destination_is_well_over_dimse_and_web(orthanc: Orthanc) -> None:
    over_dimse = doctor.check_destination(dicom(orthanc.dicom_port, "ORTHANC"), receiver=("127.0.0.1", 11112))
    over_web = doctor.check_destination(Destination.parse({"name": "web", "url": orthanc.web_url}, "test"))

    assert over_dimse == doctor.Finding("destination pacs", True, "answers, takes SEG and SR")
    assert over_web == doctor.Finding("destination web", True, "web answers a search")


@pytest.mark.service
def test_a_wrong_ae_title_is_told_with_the_remedy(orthanc_factory: OrthancFactory) -> None:
    strict = orthanc_factory(DicomCheckCalledAet=True)

    found = doctor.check_destination(dicom(strict.dicom_port, "WRONG"))

    assert not found.ok
    assert "called AE title not recognized" in found.detail
    assert "compare ae_title, host and port" in found.remedy


def test_a_wrong_port_is_told_with_the_usual_ones() -> None:
    found = doctor.check_destination(dicom(free_port()))

    assert not found.ok
    assert "is the port right" in found.detail
    assert "4242" in found.remedy


def test_a_destination_without_maps_is_well_and_the_finding_says_so() -> None:
    with RecordingPeer(sop_classes=(CT, SEG, SR)) as peer:
        found = doctor.check_destination(dicom(peer.port))

    assert found.ok
    assert "but no parametric maps or secondary captures" in found.detail


def test_a_destination_that_does_not_take_results_is_told_before_any_is_sent() -> None:
    with RecordingPeer(sop_classes=(CT, SR)) as peer:
        found = doctor.check_destination(dicom(peer.port))

    assert not found.ok
    assert found.detail == "it answers the C-ECHO, but does not accept SEG"


def test_a_destination_that_cannot_be_queried_is_well_and_says_so() -> None:
    with RecordingPeer(sop_classes=(SEG, SR)) as peer:
        found = doctor.check_destination(dicom(peer.port))

    assert found.ok
    assert "cannot be queried" in found.detail


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_destination_that_is_our_own_receiver_is_a_loop(host: str) -> None:
    found = doctor.check_destination(dicom(11112), receiver=(host, 11112))

    assert not found.ok
    assert "every result would come back as input" in found.detail


def test_the_receiver_answers_or_does_not() -> None:
    with RecordingPeer(ae_title="IMAGINGAI", require_called=True) as peer:
        assert doctor.check_receiver("IMAGINGAI", "0.0.0.0", peer.port).ok
        assert not doctor.check_receiver("OTHER", "127.0.0.1", peer.port).ok
    with RecordingPeer(require_calling=("CT1",)) as peer:
        listed = doctor.check_receiver("IMAGINGAI", "127.0.0.1", peer.port)
        assert listed.ok
        assert "of its list only" in listed.detail
    assert "start `imaging-ai serve`" in doctor.check_receiver("IMAGINGAI", "127.0.0.1", free_port()).remedy


def test_the_web_server_that_does_not_run_is_told() -> None:
    found = doctor.check_web(f"http://127.0.0.1:{free_port()}")

    assert not found.ok
    assert "does not answer" in found.detail


def test_a_database_of_another_schema_is_told(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    empty = doctor.check_database(database)
    migrate.upgrade(database)

    assert not empty.ok
    assert "imaging-ai db upgrade" in empty.detail
    assert doctor.check_database(database).ok
    database.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_clock_that_went_back_is_told(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    migrate.upgrade(database)
    with database.write() as session:
        audit.record(session, "send", object_type="instance", object_uid="1.2")
    assert doctor.check_clock(database).ok

    with database.write() as session:
        session.add(AuditEventRow(id=2, at=time.time() + 3600, action="send", key_id="", hash=""))
    found = doctor.check_clock(database)

    assert not found.ok
    assert "in the future" in found.detail
    database.dispose()


def test_storage_is_tried_by_writing(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'objects'}"
    (tmp_path / "file").write_text("in the way")

    assert doctor.check_storage(lambda: open_store(url, sync=False)).ok
    assert not doctor.check_storage(lambda: open_store(f"file://{tmp_path / 'file'}", sync=False)).ok


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path, 1).ok
    assert "storage.min_free_mb is" in doctor.check_disk(tmp_path, 1 << 40).detail


def _raise(error: Exception) -> None:
    raise error


def test_broker_model_and_settings_are_what_their_trial_says() -> None:
    assert doctor.check_broker(lambda: None).ok
    assert doctor.check_broker(lambda: _raise(BrokerUnavailable("Redis is away"))).detail == "Redis is away"
    assert doctor.check_model("brain", lambda: None).ok
    assert doctor.check_model("brain", lambda: _raise(ModelFailed("it hung"))).detail == "it hung"
    assert doctor.check_model("brain", lambda: _raise(RuntimeError("secret"))).detail == "RuntimeError"
    assert doctor.check_settings(lambda: _raise(ConfigError("rules[1]: no"))).detail == "rules[1]: no"
