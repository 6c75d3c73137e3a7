"""Train `fdg-pet-lesion`: the tumour on FDG-PET, from the STS part of the IBSI validation data (CC BY 3.0).

    python models/train_fdg_pet_lesion.py --data DIR --out models/fdg-pet-lesion

`DIR` has `STS_001` to `STS_040`, each with `PET/image/` (a file for each slice) and `PET/mask/RS.dcm` (contours).
Patients whose number is divisible by three are held out: neither the training nor a choice made by `--cross-validate`
(of the network, its input, the loss, the length of the training) has seen them. At the end the bundle is run on the
held-out series as the server runs it, and `docs/README.md` gets their Dice.

The images are cropped to 5 cm around the contours. So that the network cannot learn where the tumour lies from where
the image ends, it sees cubes whose centre, direction and scale are drawn at random, often cut off at one side.

The same command on the same machine gives the same weights: one seed, a fixed number of threads, deterministic
algorithms. Another processor may round differently.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
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
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation
from numpy.typing import NDArray
from pydicom import dcmread
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool3d, grid_sample

from imaging_ai.catalog import read_model
from imaging_ai.core.volume import Volume
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.fitting import features_from, keep
from imaging_ai.infer.segment import find
from imaging_ai.infer.suv import SUV_BODY_WEIGHT
from imaging_ai.infer.volume import read_volume

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from rtstruct import dice, rasterise

SEED = 1
THREADS = 1
STEPS = 2500
BATCH = 4
LEARNING_RATE = 3e-3
SMOOTH = 200.0  # voxels; what the Dice loss of a window without tumour leans on
EMA = 0.995
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from DICOM's LPS+ to MONAI's RAS+


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient: the series as the server reads it, the expert's mask, and both in MONAI's order for training."""

    number: int
    volume: Volume
    mask: NDArray[np.bool_]
    pair: Tensor  # (SUV, mask), then x, y, z towards right, front, head
    spacing: NDArray[np.float64]
    tumour: NDArray[np.int64]  # indices of its voxels

    @property
    def held_out(self) -> bool:
        """The rule, fixed before anything was tried."""
        return self.number % 3 == 0


def load_patient(folder: Path) -> Patient:
    """Read `STS_nnn`."""
    volume = read_volume([file.read_bytes() for file in sorted((folder / "PET" / "image").iterdir())])
    assert volume.unit == SUV_BODY_WEIGHT, f"{folder}: not SUV"
    mask = rasterise(dcmread(folder / "PET" / "mask" / "RS.dcm"), volume.grid)
    stack = np.stack([volume.voxels, mask.astype(np.float32)]).transpose(0, 3, 2, 1)
    turned = Orientation("RAS")(MetaTensor(torch.from_numpy(stack.copy()), affine=TO_RAS @ volume.grid.affine))
    pair = turned.as_tensor().contiguous()
    spacing = np.linalg.norm(np.asarray(turned.affine)[:3, :3], axis=0)
    return Patient(int(folder.name[-3:]), volume, mask, pair, spacing, np.argwhere(pair[1].numpy() > 0))


class Bundle:
    """What training takes from the bundle, so that both see the same: network, window, spacing, intensities."""

    def __init__(self, path: Path) -> None:
        parser = ConfigParser()
        parser.read_config(path / "configs" / "inference.json")
        steps = parser.get_parsed_content("preprocessing").transforms
        kinds = [type(step).__name__ for step in steps]
        after = kinds.index("Spacingd")
        self._intensities = Compose(steps[after + 1 :])
        self.spacing = float(parser["preprocessing::transforms"][after]["pixdim"][0])
        self.window = int(parser["inferer::roi_size"][0])
        self._parser = parser

    def network(self) -> nn.Module:
        """Return a new network, its weights from PyTorch's seed."""
        made = self._parser.get_parsed_content("network_def", lazy=False)  # a new one each time
        assert isinstance(made, nn.Module)
        return made.to(memory_format=torch.channels_last_3d)

    def channels(self, suv: Tensor) -> Tensor:
        """Turn SUV into what the network sees."""
        made = self._intensities({"image": suv})["image"]
        return made.as_tensor() if isinstance(made, MetaTensor) else torch.as_tensor(made)


class Windows:
    """Draws training windows: turned, scaled, mirrored, shifted, cut off, brighter or darker, blurred, noisy."""

    def __init__(self, patients: Sequence[Patient], bundle: Bundle, seed: int) -> None:
        self._patients, self._bundle = patients, bundle
        self._random = np.random.default_rng(seed)
        self._noise = torch.Generator().manual_seed(seed)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the network's input and the share of tumour in each voxel."""
        drawn = [self._window() for _ in range(size)]
        inputs = torch.stack([self._bundle.channels(suv) for suv, _ in drawn])
        return inputs.contiguous(memory_format=torch.channels_last_3d), torch.stack([mask for _, mask in drawn])

    def _window(self) -> tuple[Tensor, Tensor]:
        patient = self._patients[self._random.integers(len(self._patients))]
        size = np.array(patient.pair.shape[1:])
        # from the window's coordinates, -1 to 1, to the image's
        turn = self._turn() * self._bundle.spacing * (self._bundle.window - 1) / 2
        place = np.column_stack([turn / patient.spacing[:, None], self._center(patient)]) * 2 / (size - 1)[:, None]
        place[:, 3] -= 1
        place = place[::-1, [2, 1, 0, 3]].astype(np.float32)  # PyTorch names the last axis first
        window = [self._bundle.window] * 3
        grid = affine_grid(torch.from_numpy(place)[None], [1, 1, *window], align_corners=True)
        pair = grid_sample(patient.pair[None], grid, align_corners=True)[0]
        if self._random.random() < 0.25:
            pair = self._heal(pair)
        self._cut(pair)
        return self._rescan(pair[:1]), pair[1:]

    def _turn(self) -> NDArray[np.float64]:
        """Draw a turn (freely about the body's axis), a scale for all axes, one for each, and mirrorings."""
        angles = self._random.uniform(-1, 1, 3) * np.radians([25, 25, 180])
        turn = np.eye(3)
        for (i, j), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
            step = np.eye(3)
            step[i, i] = step[j, j] = math.cos(angle)
            step[i, j], step[j, i] = -math.sin(angle), math.sin(angle)
            turn = turn @ step
        each = np.exp(self._random.uniform(-0.1, 0.1, 3)) * self._random.choice([-1, 1], 3)
        return np.asarray(turn @ np.diag(each) * math.exp(self._random.uniform(-0.25, 0.3)))

    def _center(self, patient: Patient) -> NDArray[np.float64]:
        """Draw the centre of a window, mostly about 25 mm from a voxel of the tumour, else anywhere."""
        if self._random.random() < 0.75:
            voxel = patient.tumour[self._random.integers(len(patient.tumour))]
            return np.asarray(voxel + self._random.normal(0, 25 / patient.spacing))
        return self._random.uniform(0, np.array(patient.pair.shape[1:]) - 1)

    def _cut(self, pair: Tensor) -> None:
        """Blank one side: no fixed margin between tumour and edge of the image."""
        if self._random.random() < 0.3:
            axis, depth = int(self._random.integers(3)), int(self._random.integers(1, self._bundle.window // 3))
            start = 0 if self._random.random() < 0.5 else self._bundle.window - depth
            pair.narrow(axis + 1, start, depth).zero_()

    def _heal(self, pair: Tensor) -> Tensor:
        """Put the mirror image of the healthy side in the place of the side with the tumour, where there is one.

        A network that has seen nothing but tumours finds one in every patient.
        """
        axis = int(self._random.integers(3))
        layers = torch.nonzero(pair[1].amax([k for k in range(3) if k != axis])).flatten().tolist()
        if not layers:
            return pair
        below, above = layers[0] - 2, self._bundle.window - layers[-1] - 3
        if max(below, above) < 6:
            return pair
        healthy = pair.narrow(axis + 1, 0 if below > above else layers[-1] + 3, max(below, above))
        mirrored = torch.cat([healthy, healthy.flip(axis + 1)], axis + 1)
        copies = -(-self._bundle.window // mirrored.shape[axis + 1])
        return torch.cat([mirrored] * copies, axis + 1).narrow(axis + 1, 0, self._bundle.window).contiguous()

    def _rescan(self, suv: Tensor) -> Tensor:
        """Change what differs between scanners and patients: gain, contrast, resolution, noise."""
        suv = suv * math.exp(self._random.uniform(-0.2, 0.2))
        if self._random.random() < 0.3:
            suv = suv.clamp(min=0) ** math.exp(self._random.uniform(-0.2, 0.2))
        if self._random.random() < 0.3:
            suv = avg_pool3d(suv[None], 3, 1, 1, count_include_pad=False)[0]
        if self._random.random() < 0.5:
            noise = torch.randn(suv.shape, generator=self._noise)
            suv = suv + noise * self._random.uniform(0, 0.1) * (suv + 0.2)
        return suv


def loss(logits: Tensor, share: Tensor) -> Tensor:
    """Cross entropy and Dice of the tumour, both with the share of tumour in each voxel as the truth."""
    both = torch.cat([1 - share, share], 1)
    entropy = -(both * logits.log_softmax(1)).sum(1).mean()
    tumour = logits.softmax(1)[:, 1:]
    axes = (1, 2, 3, 4)
    overlap = (2 * (tumour * share).sum(axes) + SMOOTH) / (tumour.sum(axes) + share.sum(axes) + SMOOTH)
    return entropy + 1 - overlap.mean()


def train(patients: Sequence[Patient], bundle: Bundle, steps: int, say: Callable[[str], None]) -> nn.Module:
    """Train a network and return the moving average of its weights."""
    torch.manual_seed(SEED)
    network = bundle.network()
    average = copy.deepcopy(network)
    windows = Windows(patients, bundle, SEED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    running, started = math.nan, time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            warm, cooled = min(1.0, (step + 1) / 50), (1 + math.cos(math.pi * step / steps)) / 2
            group["lr"] = LEARNING_RATE * warm * (cooled + 1e-3)
        inputs, share = windows.batch(BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs)
        value = loss(logits.float(), share)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
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
    """Write the weights in half precision, half the size; running variances are too large for it."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    half = {name: value.half() for name, value in network.named_parameters()}
    torch.save(network.state_dict() | half, weights)


def score(path: Path, patients: Sequence[Patient]) -> dict[int, tuple[float, float, float]]:
    """Run the bundle as the server does; Dice, true and found volume (ml) of each patient."""
    model = load_bundle(read_model(path))
    scores = {}
    for patient in patients:
        findings = find(model.predict(patient.volume), patient.volume, model.entry, f"patient {patient.number}")
        found = np.any([finding.mask for finding in findings], axis=0)
        ml = patient.volume.grid.voxel_volume / 1000
        scores[patient.number] = (dice(found, patient.mask), patient.mask.sum() * ml, found.sum() * ml)
    return scores


def summary(scores: dict[int, tuple[float, float, float]]) -> str:
    """Say the middle, the mean and the range in one line."""
    values = [value for value, _, _ in scores.values()]
    return (
        f"median {np.median(values):.2f}, mean {np.mean(values):.2f}, "
        f"{min(values):.2f} to {max(values):.2f}, {len(values)} patients"
    )


def cross_validate(patients: Sequence[Patient], out: Path, folds: int, steps: int) -> dict[int, tuple[float, ...]]:
    """Train on all but one part of `patients` and score that part, for each part in turn."""
    scores: dict[int, tuple[float, float, float]] = {}
    for fold in range(folds):
        aside = patients[fold::folds]
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / out.name
            shutil.copytree(out, copy)
            rest = [patient for patient in patients if patient not in aside]
            save(train(rest, Bundle(copy), steps, print), copy / "models" / "model.pt")
            scores |= score(copy, aside)
        print(f"fold {fold + 1} of {folds}: {summary({p.number: scores[p.number] for p in aside})}", flush=True)
    for number, values in sorted(scores.items()):
        print(f"STS_{number:03d}  Dice {values[0]:.2f}  true {values[1]:.0f} ml  found {values[2]:.0f} ml")
    print(f"cross-validation: {summary(scores)}")
    return dict(scores)


def write_card(out: Path, scores: dict[int, tuple[float, float, float]]) -> None:
    """Put the held-out patients' table and the digest of the weights between the card's markers."""
    card = out / "docs" / "README.md"
    digest = sha256((out / "models" / "model.pt").read_bytes()).hexdigest()
    table = "\n".join(
        [
            f"\n{summary(scores).capitalize()}.\n\n| patient | Dice | expert, ml | model, ml |\n|---|---|---|---|",
            *(
                f"| STS_{n:03d} | {value:.2f} | {true:.0f} | {found:.0f} |"
                for n, (value, true, found) in scores.items()
            ),
            f"\nSHA-256 of `models/model.pt`: `{digest}`\n",
        ]
    )
    before, rest = card.read_text().split("<!-- scores -->", 1)
    after = rest.split("<!-- /scores -->", 1)[1]
    card.write_text(f"{before}<!-- scores -->{table}<!-- /scores -->{after}")


def learn_what_is_familiar(bundle: Path, folders: Sequence[Path]) -> str:
    """Keep the statistics of the network's features on these series in the bundle; say of how many."""
    model = load_bundle(read_model(bundle))
    series = ({"image": [path.read_bytes() for path in sorted((each / "PET/image").iterdir())]} for each in folders)
    familiar, refused = features_from(model, series)
    keep(familiar, bundle)
    return f"{familiar.count} series are familiar, {len(refused)} were refused"


def main() -> None:
    """Train, score, and write the bundle."""
    parser = argparse.ArgumentParser(description="Train the FDG-PET lesion model.")
    parser.add_argument("--data", type=Path, required=True, help="folder with STS_001 to STS_040")
    parser.add_argument(
        "--out", type=Path, required=True, help="the bundle; gets models/model.pt and its card's scores"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--cross-validate", type=int, metavar="N", help="only try: N parts of the training patients")
    parser.add_argument("--score", action="store_true", help="only score the held-out patients with the weights there")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    patients = [load_patient(folder) for folder in sorted(options.data.glob("STS_*"))]
    training = [patient for patient in patients if not patient.held_out]
    if options.cross_validate:
        cross_validate(training, options.out, options.cross_validate, options.steps)
        return
    if not options.score:
        bundle = Bundle(options.out)
        save(
            train(training, bundle, options.steps, lambda line: print(line, flush=True)),
            options.out / "models" / "model.pt",
        )
    print(learn_what_is_familiar(options.out, [options.data / f"STS_{one.number:03d}" for one in training]))
    scores = score(options.out, [patient for patient in patients if patient.held_out])
    write_card(options.out, scores)
    print(json.dumps({f"STS_{number:03d}": round(values[0], 3) for number, values in scores.items()}))
    print(summary(scores))


if __name__ == "__main__":
    main()
