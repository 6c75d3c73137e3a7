"""DICOM in, result out: imaging-ai against MONAI's own bundle workflow, in one run: `python bench/infer.py`.

    python bench/infer.py [--series FOLDER] [--device cuda] [--rounds 3]        (needs pytorch-ignite)

Both run the same bundle (the configuration of the zoo's spleen_ct_segmentation) on the same CT of 512 x 512 x 112,
each in a process of its own with the model loaded, one after the other, `--rounds` times after a first one that does
not count. MONAI's time runs from its `LoadImaged` (NIfTI, uncompressed) to the end of its `SaveImaged`; ours from the
bytes of the DICOM files to a validated SEG. CPU seconds are of all threads. Dice is of our mask with MONAI's saved one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

import infer_data
from imaging_ai.analysis import analyse
from imaging_ai.catalog import read_model
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.device import choose_device
from imaging_ai.infer.volume import read_volume
from imaging_ai.process import keep_memory
from imaging_ai.sandbox.child import KEPT_BYTES
from imaging_ai.sandbox.confine import ENVIRONMENT
from infer_roofline import roofline

Run = Callable[[], dict[str, float]]


class Stages:
    """Seconds spent in the calls of some classes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: type, stage: str, device: str, method: str = "__call__") -> None:
        call = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                if device == "cuda":
                    torch.cuda.synchronize()
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

        setattr(owner, method, timed)


def monai_workflow(folder: Path, device: str) -> tuple[Run, Callable[[], NDArray[np.bool_]]]:
    """Prepare MONAI's own workflow."""
    import nibabel
    from monai.bundle.workflows import ConfigWorkflow
    from monai.inferers.inferer import SlidingWindowInferer
    from monai.transforms import post
    from monai.transforms.io import dictionary as io
    from monai.transforms.spatial import dictionary as spatial

    stages = Stages()
    for owner, stage in (
        (io.LoadImaged, "read"),
        (spatial.Spacingd, "resample"),
        (SlidingWindowInferer, "windows"),
        (post.dictionary.Activationsd, "activation"),
        (post.dictionary.Invertd, "inversion"),
        (post.dictionary.AsDiscreted, "argmax"),
        (io.SaveImaged, "write"),
    ):
        stages.watch(owner, stage, device)
    workflow = ConfigWorkflow(
        config_file=str(folder / "bundle" / "configs" / "inference.json"),
        meta_file=str(folder / "bundle" / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(folder / "bundle"),
        dataset_dir=str(folder / "nifti"),
        output_dir=str(folder / "eval"),
    )
    if device == "cpu":
        workflow.parser["device"] = "$torch.device('cpu')"
    workflow.initialize()

    def run() -> dict[str, float]:
        stages.seconds.clear()
        workflow.run()
        return dict(stages.seconds)

    def mask() -> NDArray[np.bool_]:
        (file,) = (folder / "eval").glob("*.nii.gz")
        return np.asarray(nibabel.load(file).dataobj).squeeze().transpose(2, 1, 0) > 0  # type: ignore[attr-defined]

    return run, mask


def imaging_ai(folder: Path, device: str) -> tuple[Run, Callable[[], NDArray[np.bool_]]]:
    """Prepare our own way from files to objects."""
    keep_memory(*KEPT_BYTES)  # as a runner does
    model = load_bundle(read_model(folder / "bundle"), choose_device(device))
    files = sorted((folder / "dicom").iterdir())
    last: list[NDArray[np.bool_]] = []

    def run() -> dict[str, float]:
        found = analyse(
            {"image": [file.read_bytes() for file in files]},
            model,
            lambda _percent, _stage: None,
            job_uid="2.25.1",
            created_at=1.7e9,
        )
        last[:] = [np.any([finding.mask for finding in found.findings], axis=0)]
        print("  notes:", found.provenance["notes"], flush=True)
        return dict(found.provenance["seconds"])  # type: ignore[call-overload, no-any-return]

    return run, lambda: last[0]


SIDES = {"monai": monai_workflow, "imaging_ai": imaging_ai}


def serve(side: str, folder: Path, device: str, threads: int, answers: Connection[Any, Any]) -> None:
    """Run one side whenever asked, until told to stop; the last answer is the mask."""
    run, mask = SIDES[side](folder, device)
    if threads:
        torch.set_num_threads(threads)
    answers.send("ready")
    while answers.recv() == "run":
        start, busy = time.perf_counter(), time.process_time()
        stages = run()
        if device == "cuda":
            torch.cuda.synchronize()
        figures = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if device == "cuda":
            figures["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
        answers.send({**figures, "stages": stages})
    np.save(folder / f"{side}.npy", mask())
    answers.send("saved")


def compare(folder: Path, device: str, threads: int, rounds: int) -> dict[str, Any]:
    """Let both run in turn."""
    processes = multiprocessing.get_context("spawn")
    sides: dict[str, tuple[Any, Connection[Any, Any]]] = {}
    for side in SIDES:
        ours, theirs = processes.Pipe()
        process = processes.Process(target=serve, args=(side, folder, device, threads, theirs), daemon=True)
        os.environ.update(ENVIRONMENT if side == "imaging_ai" else {})  # of a runner
        process.start()
        theirs.close()  # so that one that dies is heard
        sides[side] = (process, ours)
        ours.recv()
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side, (_, connection) in sides.items():
            connection.send("run")
            figures = connection.recv()
            told = " ".join(f"{stage} {seconds:.2f}" for stage, seconds in figures["stages"].items())
            print(f"{side:10} {figures['seconds']:6.2f} s  {figures['cpu_seconds']:6.2f} CPU s  {told}", flush=True)
            if number:
                runs[side].append(figures)
    masks = []
    for side, (process, connection) in sides.items():
        connection.send("stop")
        connection.recv()
        process.join()
        masks.append(np.load(folder / f"{side}.npy"))
    one, other = masks
    median = {
        side: {key: statistics.median(run[key] for run in found) for key in ("seconds", "cpu_seconds", "peak_mb")}
        for side, found in runs.items()
    }
    return {
        **median,
        "times_faster": round(median["monai"]["seconds"] / median["imaging_ai"]["seconds"], 2),
        "times_less_cpu": round(median["monai"]["cpu_seconds"] / median["imaging_ai"]["cpu_seconds"], 2),
        "dice": round(float(2 * (one & other).sum() / max(1, one.sum() + other.sum())), 5),
        "voxels": int(one.sum()),
    }


def main() -> None:
    """Make the series and the bundle, run both, print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path, help="a folder with an axial CT, instead of the phantom")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--slices", type=int, default=112, help="of the phantom, 3 mm apart")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="of each side on the CPU; 0: as each chooses")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=float, default=90.0, help="seconds, once; the weights are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.series:
            voxels, spacing = infer_data.enlarged(
                [file for file in sorted(options.series.rglob("*")) if file.is_file() and file.name != "DIRFILE"],
                options.size,
            )
        else:
            spacing = (3.0, 360 / options.size, 360 / options.size)
            voxels = infer_data.phantom(options.size, options.slices, spacing)
        files = infer_data.write_series(voxels, spacing, folder / "dicom")
        volume = read_volume(file.read_bytes() for file in files)
        (folder / "nifti").mkdir()
        infer_data.write_nifti(volume, folder / "nifti" / "image.nii")
        infer_data.write_bundle(folder / "bundle", volume, seconds=options.train, device=options.device)
        print(f"{voxels.shape} at {tuple(round(step, 3) for step in spacing)} mm on {options.device}", flush=True)
        del volume, voxels
        found = compare(folder, options.device, options.threads, options.rounds)
        model = load_bundle(read_model(folder / "bundle"), choose_device(options.device, threads=options.threads))
        windows = torch.rand(16 if options.device == "cuda" else 4, 1, *[infer_data.WINDOW] * 3, device=model.device)
        found["network"] = {name: round(figure, 3) for name, figure in roofline(model.network, windows).items()}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
