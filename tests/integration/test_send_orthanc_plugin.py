"""What runs inside Orthanc: a series that is uploaded there arrives at a Storage SCP, once, and results do not."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from services import free_port, missing, require_program, wait_until
from services.orthanc import PLUGINS, Orthanc, OrthancFactory
from services.peers import CT, SEG, RecordingPeer, small_object, stored

pytestmark = pytest.mark.service

FOLDER = Path(__file__).resolve().parents[2] / "plugins" / "orthanc"


def with_python(factory: OrthancFactory, port: int, **section: object) -> Orthanc:
    plugin = PLUGINS / "libOrthancPython.so"
    if not plugin.exists():
        missing("Orthanc's Python plugin")
    return factory(
        Plugins=[str(plugin)],
        PythonScript=str(FOLDER / "ai_route.py"),
        DicomModalities={"ai": ["PEER", "127.0.0.1", port]},
        ImagingAI={"Modality": "ai", **section},
    )


def with_lua(factory: OrthancFactory, port: int, **section: object) -> Orthanc:
    return factory(
        LuaScripts=[str(FOLDER / "ai_route.lua")],
        DicomModalities={"ai": ["PEER", "127.0.0.1", port]},
        ImagingAI={"Modality": "ai", **section},
    )


@pytest.mark.parametrize("variant", [with_python, with_lua])
def test_a_stable_series_is_sent_once_and_a_result_never(
    variant: object, orthanc_factory: OrthancFactory, real_data: Path, tmp_path: Path
) -> None:
    slices = sorted((real_data / "ct-liver-seg").glob("0*.dcm"))
    with RecordingPeer() as peer:
        orthanc = variant(orthanc_factory, peer.port)  # type: ignore[operator]
        orthanc.upload(slices[0])
        orthanc.upload(slices[1])
        wait_until(lambda: len(peer.uids) == 2, what="the series arrived")

        orthanc.upload(real_data / "ct-liver-seg" / "liver_SEG.dcm")
        _send_as("PEER", orthanc, small_object(tmp_path, CT, "1.2.3.1"))  # a picture of theirs, whatever its Modality
        _stable_again(orthanc)
        assert len(peer.uids) == 2

        orthanc.upload(slices[2])
        wait_until(lambda: len(peer.uids) >= 5, what="the grown series arrived again")

    assert set(peer.uids) == {stored(file).sop_instance_uid for file in slices}
    assert {stored(real_data / "ct-liver-seg" / "liver_SEG.dcm").sop_instance_uid}.isdisjoint(peer.uids)


def _send_as(ae_title: str, orthanc: Orthanc, file: Path) -> None:
    command = [require_program("storescu"), "-aet", ae_title, "127.0.0.1", str(orthanc.dicom_port), str(file)]
    subprocess.run(command, check=True)


def _stable_again(orthanc: Orthanc) -> None:
    def stable() -> bool:
        changes = orthanc.get("/changes", limit=1000)["Changes"]
        return sum(change["ChangeType"] == "StableSeries" for change in changes) >= 3

    wait_until(stable, what="the SEG's series is stable, and theirs")
    time.sleep(0.5)  # and whoever sends on that has had the time to


def test_python_waits_for_a_server_that_is_not_there_yet(orthanc_factory: OrthancFactory, tmp_path: Path) -> None:
    port = free_port()
    orthanc = with_python(orthanc_factory, port)
    orthanc.upload(small_object(tmp_path, CT, "1.2.3.1"))
    wait_until(lambda: "did not go to ai" in orthanc.log.read_text(), what="the first try failed")

    with RecordingPeer(port=port) as peer:
        wait_until(lambda: peer.uids == ["1.2.3.1"], what="it arrived when the server was there")


def test_python_sends_a_study_as_one_without_its_results(orthanc_factory: OrthancFactory, tmp_path: Path) -> None:
    with RecordingPeer() as peer:
        orthanc = with_python(orthanc_factory, peer.port, Level="Study")
        for uid in ("1.2.3.1", "1.2.3.2"):
            orthanc.upload(small_object(tmp_path, CT, uid))
        orthanc.upload(small_object(tmp_path, SEG, "1.2.3.3"))
        wait_until(lambda: len(peer.uids) == 2, what="the study arrived")

    assert sorted(peer.uids) == ["1.2.3.1", "1.2.3.2"]
    assert peer.associations == 1
