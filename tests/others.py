"""Other people's readers and validators of DICOM objects, as tests ask them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from services import missing, require_program

__all__ = ["dciodvfy_errors", "dcmqi", "dsrdump", "measurement_groups", "segments_by_dcmqi"]


def dciodvfy_errors(path: Path) -> list[str]:
    """What dicom3tools finds wrong with an object."""
    done = _run(require_program("dciodvfy"), "-new", str(path))
    output = done.stdout + done.stderr
    assert output.strip(), "dciodvfy says at least what kind of object it was shown"
    return [line for line in output.splitlines() if line.startswith("Error")]


def dsrdump(path: Path) -> str:
    """A structured report as DCMTK prints it."""
    done = _run(require_program("dsrdump"), str(path))
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))], done.stderr
    return done.stdout


def dcmqi(program: str, *arguments: str) -> None:
    """Run a program of dcmqi, which pip installs beside Python."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        missing(f"the program {program} of dcmqi")
    done = _run(str(path), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def segments_by_dcmqi(path: Path, folder: Path) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """The segments of a SEG as dcmqi reads them: mask (slices, rows, columns), and affine to LPS+ millimetres."""
    folder.mkdir()
    dcmqi("segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nifti")
    images = [nibabel.load(file) for file in sorted(folder.glob("*.nii.gz"), key=lambda file: int(file.name[:-7]))]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return [(np.asarray(image.dataobj).transpose(2, 1, 0) > 0, flip @ image.affine) for image in images]


def measurement_groups(path: Path, metadata: Path) -> list[dict[str, Any]]:
    """The measurement groups of a TID 1500 report as dcmqi reads them."""
    dcmqi("tid1500reader", "--inputDICOM", str(path), "--outputMetadata", str(metadata))
    return list(json.loads(metadata.read_text())["Measurements"])


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
