"""The shipped model through the whole server: PET in by C-STORE, SEG out of the archive, held against the experts.

Three patients of the model card that training never saw; all of them, without the server, in `test_model_dice.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from e2e.server import Server, push
from imaging_ai.core.job import JobState
from imaging_ai.infer.volume import read_volume
from imaging_ai.visualize.reading import place
from rtstruct import dice_against_rtstruct

pytestmark = [pytest.mark.service, pytest.mark.slow]

CARD = Path(__file__).resolve().parents[2] / "models" / "fdg-pet-lesion" / "docs" / "README.md"
PATIENTS = ("STS_003", "STS_018", "STS_036")

SETTINGS = """
[[rules]]
name = "PET"
when = { Modality = "PT" }
run = ["fdg-pet-lesion"]

[routing]
quiet_seconds = 0.5
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("dice"), SETTINGS, {"IMAGING_AI_MODELS_SHIPPED": "true"}) as server:
        server.serve()
        yield server


@pytest.fixture(scope="module")
def scores(server: Server, real_data: Path) -> dict[str, float]:
    """Dice of each patient."""
    for name in PATIENTS:
        push(server.dicom_port, real_data / "sts" / name / "PET" / "image")
    jobs = {job.series_instance_uids[0]: job for job in server.wait_jobs(len(PATIENTS), timeout=280)}
    found = {}
    for name in PATIENTS:
        folder = real_data / "sts" / name / "PET"
        files = sorted((folder / "image").iterdir())
        volume = read_volume(file.read_bytes() for file in files)
        job = jobs[str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)]
        assert job.state is JobState.COMPLETED, job.failure
        mask = np.zeros(volume.grid.shape, bool)
        seg = server.results(job.id).get("SEG")  # there is none when nothing was found
        for layer in place([seg], volume).layers if seg is not None else ():
            mask |= layer.region.whole()
        found[name] = dice_against_rtstruct(mask, volume.grid, folder / "mask" / "RS.dcm")
    return found


def test_the_server_finds_what_the_card_tells(scores: dict[str, float]) -> None:
    told = dict(re.findall(r"^\| (STS_\d{3}) \| (0\.\d\d) \|", CARD.read_text(), re.MULTILINE))
    assert scores == pytest.approx({name: float(told[name]) for name in PATIENTS}, abs=0.02)
