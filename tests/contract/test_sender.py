"""What every way to a destination must do, tried over both: C-STORE and STOW-RS, into the real Orthanc."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from imaging_ai.errors import DeliveryUnavailable
from imaging_ai.send.answers import Verdict
from imaging_ai.send.destinations import Destination
from imaging_ai.send.folder import send_folder
from imaging_ai.send.peer import connect, echo
from services import free_port
from services.orthanc import Orthanc
from services.peers import SEG, read, small_object, stored

pytestmark = pytest.mark.service

MakeDestination = Callable[..., Destination]


@pytest.fixture(params=["dicom", "web"])
def destination_of(request: pytest.FixtureRequest, orthanc: Orthanc) -> MakeDestination:
    """Make a destination of that Orthanc, or of a port where nothing is."""

    def make(*, is_there: bool = True, **settings: object) -> Destination:
        if request.param == "web":
            url = f"{orthanc.web_url}/" if is_there else f"http://127.0.0.1:{free_port()}/dicom-web"
            return Destination.parse({"name": "pacs", "url": url, **settings}, "test")
        port = orthanc.dicom_port if is_there else free_port()
        table = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port}
        return Destination.parse({**table, **settings}, "test")

    return make


def test_real_objects_arrive_whole_and_are_seen_afterwards(
    destination_of: MakeDestination, orthanc: Orthanc, real_data: Path
) -> None:
    files = sorted((real_data / "ct-liver-seg").glob("*.dcm"))
    instances = [stored(file) for file in files]

    with connect(destination_of(), instances) as peer:
        assert peer.holds(instances) == frozenset()
        answers = [peer.store(instance, read(instance)) for instance in instances]
        shown = peer.holds(instances)

    assert {answer.verdict for answer in answers} == {Verdict.STORED}
    assert shown == {instance.sop_instance_uid for instance in instances}
    assert len(orthanc.instances(SEG)) == 1
    for file, instance in zip(files, instances, strict=True):
        arrived = dcmread(BytesIO(orthanc.download(orthanc.lookup(instance.sop_instance_uid))))
        assert arrived == dcmread(file)  # not byte for byte: Orthanc writes lengths of sequences anew


def test_the_same_instance_twice_is_one(destination_of: MakeDestination, orthanc: Orthanc, tmp_path: Path) -> None:
    instance = stored(small_object(tmp_path, SEG, "1.2.3.4.5"))

    with connect(destination_of(), [instance]) as peer:
        answers = [peer.store(instance, read(instance)) for _ in range(2)]

    assert [answer.verdict for answer in answers] == [Verdict.STORED, Verdict.STORED]
    assert orthanc.count() == 1


def test_only_what_is_there_is_seen(destination_of: MakeDestination, tmp_path: Path) -> None:
    here, other = (stored(small_object(tmp_path, SEG, f"1.2.3.4.{number}")) for number in (5, 6))

    with connect(destination_of(), [here, other]) as peer:
        peer.store(here, read(here))
        assert peer.holds([here, other]) == {here.sop_instance_uid}
        assert peer.holds([other]) == frozenset()


def test_without_check_back_nothing_is_asked(destination_of: MakeDestination, tmp_path: Path) -> None:
    instance = stored(small_object(tmp_path, SEG, "1.2.3.4.5"))

    with connect(destination_of(check_back=False), [instance]) as peer:
        peer.store(instance, read(instance))
        assert peer.holds([instance]) is None


def test_a_destination_that_is_not_there_is_a_passing_fault(destination_of: MakeDestination, tmp_path: Path) -> None:
    instance = stored(small_object(tmp_path, SEG, "1.2.3.4.5"))

    with (
        pytest.raises(DeliveryUnavailable, match=r"no connection|does not answer"),
        connect(destination_of(is_there=False), [instance]) as peer,
    ):
        peer.store(instance, read(instance))


def test_echo_says_whether_it_is_there(destination_of: MakeDestination) -> None:
    echo(destination_of())
    with pytest.raises(DeliveryUnavailable):
        echo(destination_of(is_there=False))


def test_a_folder_is_sent_and_what_is_no_dicom_is_counted(
    destination_of: MakeDestination, orthanc: Orthanc, real_data: Path
) -> None:
    steps: list[tuple[int, int]] = []

    report = send_folder(real_data / "ct-liver-seg", destination_of(), lambda done, total: steps.append((done, total)))

    assert (report.sent, report.confirmed, report.skipped, report.failed) == (4, 4, 2, [])
    assert report.is_complete
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert orthanc.count() == 4


def test_a_folder_for_a_destination_that_is_not_there_fails_with_the_reason(
    destination_of: MakeDestination, tmp_path: Path
) -> None:
    path = small_object(tmp_path, SEG, "1.2.3.4.5")

    report = send_folder(tmp_path, destination_of(is_there=False))

    assert not report.is_complete
    assert [file for file, _ in report.failed] == [path]
