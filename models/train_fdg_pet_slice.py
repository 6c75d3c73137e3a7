"""Train `fdg-pet-slice`: is the tumour in this slice of an FDG-PET, from the STS part of the IBSI validation data.

    python models/train_fdg_pet_slice.py --data DIR --out models/fdg-pet-slice

`DIR` has `STS_001` to `STS_040`, each with `PET/image/` (a file for each slice) and `PET/mask/RS.dcm` (contours);
CC BY 3.0. A slice is positive when the contour has a voxel in it. Patients whose number is divisible by three are held
out of everything but the last score. The others are divided in three: what each third is told by a network that has
seen only the rest gives the temperature (Guo et al. 2017) and the threshold (Youden 1950), which go into `dicom.toml`;
then a network is trained on all of them. At the end the bundle runs on the held-out series as the server runs it, and
`docs/README.md` gets what came out, with intervals from drawing patients with replacement.

The same command on the same machine gives the same weights: one seed, one thread, deterministic algorithms.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from pydicom import dcmread
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample

from imaging_ai.catalog import read_model
from imaging_ai.core.volume import Volume
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.classify import scores
from imaging_ai.infer.suv import SUV_BODY_WEIGHT
from imaging_ai.infer.volume import read_volume

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from rtstruct import rasterise

SEED = 1
THREADS = 1
STEPS = 600
FOLDS = 3
BATCH = 32
LEARNING_RATE = 2e-3
EMA = 0.99
SUV_CEILINGS = (2.0, 5.0, 20.0)  # of the three channels, as in the bundle
BINS = 15  # of the calibration error, as Guo et al.
DRAWS = 2000  # of patients, for the intervals

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient: the series as the server reads it, and which of its slices the expert's contour touches."""

    number: int
    volume: Volume
    positive: Flags

    @property
    def held_out(self) -> bool:
        """The rule, the same as for `fdg-pet-lesion`, fixed before anything was tried."""
        return self.number % 3 == 0


def load_patient(folder: Path) -> Patient:
    """Read `STS_nnn`."""
    volume = read_volume([file.read_bytes() for file in sorted((folder / "PET" / "image").iterdir())])
    assert volume.unit == SUV_BODY_WEIGHT, f"{folder}: not SUV"
    mask = rasterise(dcmread(folder / "PET" / "mask" / "RS.dcm"), volume.grid)
    return Patient(int(folder.name[-3:]), volume, mask.any(axis=(1, 2)))


def new_network(bundle: Path) -> nn.Module:
    """Return the bundle's network with weights from PyTorch's seed."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    made = parser.get_parsed_content("network_def")
    assert isinstance(made, nn.Module)
    return made


def slices_of(patient: Patient, bundle: Path) -> Tensor:
    """Return SUV ``[slice, 1, x, y]`` on the grid of the network, by the preprocessing that the server will use."""
    prepared = [one.inputs for one in load_bundle(read_model(bundle)).preparations(patient.volume)]
    given = torch.cat(prepared)
    suv = given[:, -1:] * SUV_CEILINGS[-1]
    assert torch.allclose(channels(suv), given, atol=1e-5), "the channels are not those of the bundle"
    return suv


def channels(suv: Tensor) -> Tensor:
    """Turn SUV ``[n, 1, x, y]`` into what the network sees."""
    return torch.cat([(suv / ceiling).clamp(0, 1) for ceiling in SUV_CEILINGS], dim=1)


class Slices:
    """Draws slices of patients drawn alike: turned, scaled, mirrored, shifted, cut off, brighter, blurred, noisy."""

    def __init__(self, patients: Sequence[Patient], images: dict[int, Tensor], seed: int) -> None:
        self._images = [images[patient.number] for patient in patients]
        self._labels = [torch.from_numpy(patient.positive.astype(np.int64)) for patient in patients]
        self._random = np.random.default_rng(seed)
        self._noise = torch.Generator().manual_seed(seed)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the network's input, and 1 for a slice with tumour."""
        drawn = [(k, int(self._random.integers(len(self._labels[k])))) for k in self._patients(size)]
        suv = torch.stack([self._images[k][j] for k, j in drawn])
        places = torch.from_numpy(np.stack([self._place() for _ in drawn]))
        suv = grid_sample(suv, affine_grid(places, list(suv.shape), align_corners=False), align_corners=False)
        suv = torch.stack([self._rescan(self._cut(one)) for one in suv])
        return channels(suv), torch.stack([self._labels[k][j] for k, j in drawn])

    def _patients(self, size: int) -> list[int]:
        return [int(k) for k in self._random.integers(len(self._labels), size=size)]

    def _place(self) -> NDArray[np.float32]:
        angle = self._random.uniform(-1, 1) * math.radians(25)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turn = turn @ np.diag(np.exp(self._random.uniform(-0.2, 0.2, 2)) * self._random.choice([-1, 1], 2))
        return np.column_stack([turn, self._random.uniform(-0.5, 0.5, 2)]).astype(np.float32)

    def _cut(self, suv: Tensor) -> Tensor:
        """Blank one side: no fixed margin between tumour and edge of the image."""
        if self._random.random() < 0.3:
            axis, depth = int(self._random.integers(1, 3)), int(self._random.integers(1, suv.shape[1] // 3))
            suv.narrow(axis, 0 if self._random.random() < 0.5 else suv.shape[axis] - depth, depth).zero_()
        return suv

    def _rescan(self, suv: Tensor) -> Tensor:
        """Change what differs between scanners and patients: gain, contrast, resolution, noise."""
        suv = suv.clamp(min=0) * math.exp(self._random.uniform(-0.2, 0.2))
        if self._random.random() < 0.3:
            suv = suv ** math.exp(self._random.uniform(-0.2, 0.2))
        if self._random.random() < 0.3:
            suv = avg_pool2d(suv, 3, 1, 1, count_include_pad=False)
        if self._random.random() < 0.5:
            noise = torch.randn(suv.shape, generator=self._noise)
            suv = suv + noise * self._random.uniform(0, 0.1) * (suv + 0.2)
        return suv


def train(
    patients: Sequence[Patient], images: dict[int, Tensor], bundle: Path, steps: int, say: Callable[[str], None]
) -> nn.Module:
    """Train a network and return the moving average of its weights."""
    torch.manual_seed(SEED)
    network = new_network(bundle).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    slices = Slices(patients, images, SEED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    running, started = math.nan, time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            warm, cooled = min(1.0, (step + 1) / 50), (1 + math.cos(math.pi * step / steps)) / 2
            group["lr"] = LEARNING_RATE * warm * (cooled + 1e-3)
        inputs, labels = slices.batch(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs.contiguous(memory_format=torch.channels_last))
        value = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        decay = min(EMA, step / (step + 20))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
            for kept, new in zip(average.buffers(), network.buffers(), strict=True):
                kept.copy_(new)
        now = value.item()
        running = now if math.isnan(running) else 0.98 * running + 0.02 * now
        if (step + 1) % 250 == 0:
            say(f"step {step + 1} of {steps}: loss {running:.3f}, {time.monotonic() - started:.0f} s")
    return average


def save(network: nn.Module, weights: Path) -> None:
    """Write the weights in half precision, half the size; running variances may be too large for it."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    half = {name: value.contiguous().half() for name, value in network.named_parameters()}
    torch.save(network.state_dict() | half, weights)


def log_odds(bundle: Path, patients: Sequence[Patient]) -> dict[int, Floats]:
    """Run the bundle as the server does; for each slice of each patient the log-odds of a tumour."""
    model = load_bundle(read_model(bundle))
    answers = {patient.number: scores(model, patient.volume).astype(np.float64) for patient in patients}
    return {number: answer[:, 1] - answer[:, 0] for number, answer in answers.items()}


def out_of_fold(
    patients: Sequence[Patient], images: dict[int, Tensor], out: Path, steps: int, say: Callable[[str], None]
) -> dict[int, Floats]:
    """Return the log-odds of each patient's slices from a network that has not seen the patient."""
    odds: dict[int, Floats] = {}
    for fold in range(FOLDS):
        aside = patients[fold::FOLDS]
        rest = [patient for patient in patients if patient not in aside]
        with tempfile.TemporaryDirectory() as folder:
            trial = Path(shutil.copytree(out, Path(folder) / out.name))
            save(train(rest, images, trial, steps, say), trial / "models" / "model.pt")
            odds |= log_odds(trial, aside)
        say(f"fold {fold + 1} of {FOLDS}: AUC {area_under_curve(*pooled(aside, odds)):.3f}")
    return odds


def pooled(patients: Sequence[Patient], odds: dict[int, Floats]) -> tuple[Floats, Flags]:
    """Put the slices of patients one after another: their log-odds, and whether they are positive."""
    return (
        np.concatenate([odds[patient.number] for patient in patients]),
        np.concatenate([patient.positive for patient in patients]),
    )


def temperature_of(odds: Floats, positive: Flags) -> float:
    """Return the temperature by which the log-odds lose least (negative log-likelihood)."""
    sign = np.where(positive, 1.0, -1.0)
    found = minimize_scalar(
        lambda log: float(np.logaddexp(0, -sign * odds / math.exp(log)).mean()), bounds=(-3, 3), method="bounded"
    )
    return math.exp(float(found.x))


def youden_threshold(chances: Floats, positive: Flags) -> float:
    """Return the probability at which sensitivity and specificity add up to most."""
    steps = np.arange(0.02, 0.99, 0.01)
    gain = [(chances[positive] >= step).mean() + (chances[~positive] < step).mean() for step in steps]
    return round(float(steps[int(np.argmax(gain))]), 2)


def area_under_curve(score: Floats, positive: Flags) -> float:
    """Return the area under the ROC curve: how often a positive slice is ranked above a negative one."""
    count = int(positive.sum())
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(positive) - count)))


def calibration_error(chances: Floats, positive: Flags) -> float:
    """Return the expected calibration error in bins of equal width."""
    places = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = [abs(chances[places == k].sum() - positive[places == k].sum()) for k in range(BINS)]
    return float(sum(gaps) / len(chances))


def interval(patients: Sequence[Patient], values: dict[int, Floats], measure: Callable[[Floats, Flags], float]) -> str:
    """Say a measure of all slices with its 95 % interval, from drawing patients with replacement."""
    random = np.random.default_rng(SEED)
    drawn = [
        measure(*pooled([patients[k] for k in random.integers(len(patients), size=len(patients))], values))
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{measure(*pooled(patients, values)):.3f} ({low:.3f} to {high:.3f})"


def report(patients: Sequence[Patient], odds: dict[int, Floats], temperature: float, threshold: float) -> str:
    """Say what came out on patients that were held out, as the tables of the card."""
    chances = {number: expit(value / temperature) for number, value in odds.items()}
    raw = {number: expit(value) for number, value in odds.items()}
    hottest = {one.number: one.volume.voxels.max(axis=(1, 2)).astype(np.float64) for one in patients}
    measures: list[tuple[str, dict[int, Floats], Callable[[Floats, Flags], float]]] = [
        ("area under the ROC curve", chances, area_under_curve),
        ("the same of the highest SUV in the slice", hottest, area_under_curve),
        (f"sensitivity at {threshold:g}", chances, lambda p, y: float((p[y] >= threshold).mean())),
        (f"specificity at {threshold:g}", chances, lambda p, y: float((p[~y] < threshold).mean())),
        ("expected calibration error, temperature 1", raw, calibration_error),
        (f"expected calibration error, temperature {temperature:.2f}", chances, calibration_error),
    ]
    lines = [f"| {name} | {interval(patients, values, measure)} |" for name, values, measure in measures]
    total = pooled(patients, chances)[1]
    rows = [
        f"| STS_{one.number:03d} | {len(one.positive)} | {int(one.positive.sum())} "
        f"| {area_under_curve(p, one.positive):.2f} "
        f"| {int((p[one.positive] < threshold).sum())} | {int((p[~one.positive] >= threshold).sum())} |"
        for one in patients
        for p in [chances[one.number]]
    ]
    return "\n".join(
        [
            f"\n{len(patients)} patients, {len(total)} slices, {int(total.sum())} of them with tumour.\n",
            "| | all slices (95 % interval over patients) |\n|---|---|",
            *lines,
            "\n| patient | slices | with tumour | AUC | missed | false alarms |\n|---|---|---|---|---|---|",
            *rows,
        ]
    )


def write_down(out: Path, told: str, temperature: float, threshold: float) -> None:
    """Put the calibration into `dicom.toml`, and the tables and the digest of the weights into the card."""
    toml = out / "dicom.toml"
    text = re.sub(r"^temperature = .*$", f"temperature = {temperature:.3f}", toml.read_text(), flags=re.MULTILINE)
    toml.write_text(re.sub(r"^threshold = .*$", f"threshold = {threshold:g}", text, flags=re.MULTILINE))
    card = out / "docs" / "README.md"
    digest = sha256((out / "models" / "model.pt").read_bytes()).hexdigest()
    before, rest = card.read_text().split("<!-- scores -->", 1)
    after = rest.split("<!-- /scores -->", 1)[1]
    told += f"\n\nSHA-256 of `models/model.pt`: `{digest}`\n"
    card.write_text(f"{before}<!-- scores -->{told}<!-- /scores -->{after}")


def main() -> None:
    """Cross-validate, calibrate, train, score, and write the bundle."""
    parser = argparse.ArgumentParser(description="Train the FDG-PET slice model.")
    parser.add_argument("--data", type=Path, required=True, help="folder with STS_001 to STS_040")
    parser.add_argument("--out", type=Path, required=True, help="the bundle; gets weights, calibration and scores")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--cross-validate", action="store_true", help="only try, on the patients that are trained on")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    patients = [load_patient(folder) for folder in sorted(options.data.glob("STS_*"))]
    known = [patient for patient in patients if not patient.held_out]
    if not (options.out / "models" / "model.pt").exists():
        save(new_network(options.out), options.out / "models" / "model.pt")  # the bundle loads with weights only
    images = {patient.number: slices_of(patient, options.out) for patient in known}
    odds = out_of_fold(known, images, options.out, options.steps, say)
    temperature = temperature_of(*pooled(known, odds))
    cooled = {number: expit(value / temperature) for number, value in odds.items()}
    threshold = youden_threshold(*pooled(known, cooled))
    say(f"cross-validation, temperature {temperature:.3f}, threshold {threshold:g}")
    say(report(known, odds, temperature, threshold))
    if options.cross_validate:
        return
    save(train(known, images, options.out, options.steps, say), options.out / "models" / "model.pt")
    held_out = [patient for patient in patients if patient.held_out]
    told = report(held_out, log_odds(options.out, held_out), temperature, threshold)
    write_down(options.out, told, temperature, threshold)
    say(told)


if __name__ == "__main__":
    main()
