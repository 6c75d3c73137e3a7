"""Explanations of the shipped segmenter on a real series, by the command line: valid for the validator of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from services import require_program

pytestmark = pytest.mark.service


def test_the_shipped_model_is_explained_and_every_object_is_valid(real_data: Path, tmp_path: Path) -> None:
    validator = require_program("dciodvfy")
    program = Path(sys.executable).parent / "imaging-ai"
    series = real_data / "sts" / "STS_003" / "PET" / "image"
    command = [program, "explain", "fdg-pet-lesion", series, tmp_path / "out", "--method", "grad-cam", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (told,) = json.loads(ran.stdout)
    assert told["trusted"], "what it marks is what the network uses"
    assert told["checks"]["insertion"] > told["checks"]["insertion by chance"]
    written = sorted((tmp_path / "out").glob("*.dcm"))
    kinds = {path.name.partition("-")[0] for path in written}
    assert kinds == {"seg", "sr", "pm", "sc", "ko"}
    for path in written:
        said = subprocess.run([validator, str(path)], capture_output=True, text=True, timeout=120, check=False)
        assert not [line for line in said.stderr.splitlines() if line.startswith("Error")], path.name
    names = {str(dcmread(path, stop_before_pixels=True).SeriesDescription) for path in written}
    assert any(name.endswith("PM grad-cam 1") for name in names)
