"""Bundles of the MONAI Model Zoo, DICOM in and DICOM out, with random weights: `python bench/zoo.py FOLDER [NAME…]`.

FOLDER has the bundles (`NAME/configs/inference.json|yaml` and `metadata.json`, and `scripts/` where they have their
own Python code); no weights are needed. Each runs in a process of its own on a phantom series. Printed is a table: what
came out, the seconds from the files of the series to validated objects, and the peak memory of the process.

With `--server` they go through one server instead, bundle by bundle, and where their masks lie is seen too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import zoo
import zoo_server
from imaging_ai.analysis import analyse
from imaging_ai.catalog import read_model
from imaging_ai.errors import ImagingAiError
from imaging_ai.infer.bundle import load_bundle

#: Slices, rows and columns, and millimetres between them; the rest is read as `_USUAL`.
_SHAPES = {
    "endoscopic": ((2, 480, 736), (1.0, 0.2, 0.2)),
    "classification_template": ((4, 96, 96), (3.0, 1.5, 1.5)),
    "pathology": ((2, 256, 256), (1.0, 0.01, 0.01)),
    "ventricular": ((10, 256, 216), (8.0, 1.4, 1.4)),
    "wholeBrain": ((96, 96, 96), (1.0, 1.0, 1.0)),
    "brats": ((96, 128, 128), (1.0, 1.0, 1.0)),
    "segmentation_template": ((64, 64, 64), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("multi_organ", "pancreas", "renalStructures"), ((32, 64, 64), (3.0, 1.5, 1.5))),
    "prostate": ((24, 96, 96), (3.0, 0.6, 0.6)),
}
_USUAL = ((40, 96, 96), (3.0, 1.5, 1.5))


def run(folder: Path, *, scripts: bool) -> dict[str, object]:
    """Run one bundle in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            bundle = Path(scratch) / folder.name
            with contextlib.suppress(Exception):  # what cannot be built is named by load_bundle
                zoo.random_bundle(folder, bundle, allow_scripts=scripts)
            entry = read_model(bundle)
            shape, spacing = _shape(folder)
            series = zoo.series_of(entry, shape, spacing)
            model = load_bundle(entry, allow_scripts=scripts)
            started = time.perf_counter()
            analysis = analyse(series, model, lambda *_: None, job_uid="1.2.3", created_at=0.0)
        except ImagingAiError as error:
            return {"error": f"{type(error).__name__}: {error}"}
    return {
        "shape": shape,
        "seconds": time.perf_counter() - started,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "objects": sorted(one.kind for one in analysis.objects),
        "found": len([finding for finding in analysis.findings if finding.found]) + len(analysis.evaluations),
        "notes": list(model.notes),
    }


def _shape(folder: Path) -> zoo_server.Shape:
    return next((one for name, one in _SHAPES.items() if folder.name.startswith(name)), _USUAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--no-scripts", action="store_true", help="as the server without models.allow_scripts")
    parser.add_argument("--server", action="store_true", help="through the whole server, geometry included")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.folder, scripts=not options.no_scripts)))
        return
    bundles = [one for one in sorted(options.folder.iterdir()) if (one / "configs").is_dir()]
    bundles = [one for one in bundles if not options.names or one.name in options.names]
    if options.server:
        for line in zoo_server.through_server([(one, _shape(one)) for one in bundles], scripts=not options.no_scripts):
            print(line, flush=True)
        return
    print("| bundle | series | objects | findings | seconds | peak memory |\n|---|---|---|---|---|---|", flush=True)
    for folder in bundles:
        command = [sys.executable, __file__, "--one", str(folder), *(["--no-scripts"] * options.no_scripts)]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
        answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": done.stderr[-300:]}
        if "error" in answer:
            print(f"| {folder.name} | | {answer['error']} | | | |", flush=True)
            continue
        size = " x ".join(str(side) for side in answer["shape"])
        print(
            f"| {folder.name} | {size} | {', '.join(answer['objects'])} | {answer['found']} | {answer['seconds']:.1f} "
            f"| {answer['peak_gb']:.1f} GB |",
            flush=True,
        )
        for note in answer["notes"]:
            print(f"|   | | {note} | | | |", flush=True)


if __name__ == "__main__":
    main()
