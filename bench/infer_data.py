"""What `bench/infer.py` measures on: a CT of 512 x 512, and a bundle in the style of the Model Zoo's spleen model.

The series is a phantom with a body, organs and noise, or a real one that is interpolated to 512 x 512. The network is
trained for a minute to find what is as bright as an organ with contrast in this series: a network with random weights
answers noise, of which every Dice is meaningless.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.unet import UNet
from monai.transforms.spatial.array import Spacing
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage
from torch.nn import functional

from imaging_ai.core.identity import derive_uid
from imaging_ai.core.volume import Volume
from imaging_ai.infer.tensors import image_tensor
from imaging_ai.infer.volume import read_volume

PIXDIM = (1.5, 1.5, 2.0)
WINDOW = 96
NETWORK: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [16, 32, 64, 128, 256],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
    "norm": "batch",
}
DICOM_TOML = '[[segments]]\nvalue = 1\nlabel = "Spleen"\n[outputs]\nkinds = ["SEG", "SR"]\n'


def phantom(size: int, slices: int, spacing: tuple[float, float, float]) -> NDArray[np.int16]:
    """Make a body of soft tissue with lungs, a spine, and organs with contrast, as HU."""
    z, y, x = np.meshgrid(
        *(
            ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
            for count, step in zip((slices, size, size), spacing, strict=True)
        ),
        indexing="ij",
        sparse=True,
    )
    voxels = np.full((slices, size, size), -1000, np.float32)

    def fill(hu: float, centre: Sequence[float], radii: Sequence[float]) -> None:
        parts = ((axis - c) / r for axis, c, r in zip((z, y, x), centre, radii, strict=True))
        voxels[sum(part * part for part in parts) < 1] = hu

    fill(-90, (0, 0, 0), (1e4, 120, 165))
    fill(45, (0, 0, 0), (1e4, 105, 150))
    fill(-800, (200, -10, 70), (140, 60, 55))
    fill(-800, (200, -10, -70), (140, 60, 55))
    fill(110, (30, -10, -70), (70, 70, 70))
    fill(125, (40, 25, 95), (50, 40, 30))
    fill(180, (-30, 45, 55), (55, 28, 25))
    fill(180, (-30, 45, -60), (55, 28, 25))
    fill(160, (0, 35, 8), (1e4, 11, 11))
    fill(350, (0, 70, 0), (1e4, 20, 20))
    noise = np.random.default_rng(1).normal(0, 12, voxels.shape).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(voxels, 0.7) + noise, dtype=np.int16)


def enlarged(files: Sequence[Path], size: int) -> tuple[NDArray[np.int16], tuple[float, float, float]]:
    """Read an axial series and interpolate its slices to `size` x `size`; return HU and spacing."""
    volume = read_volume(file.read_bytes() for file in files)
    voxels = volume.voxels
    wide = max(voxels.shape[1:])
    missing = [(0, 0), *(((wide - n) // 2, wide - n - (wide - n) // 2) for n in voxels.shape[1:])]
    square = torch.from_numpy(np.pad(voxels, missing, constant_values=-1000))[:, None]
    large = functional.interpolate(square, size=(size, size), mode="bilinear")[:, 0].numpy()
    step = volume.grid.spacing[1] * wide / size
    return large.astype(np.int16), (volume.grid.spacing[0], step, step)


def write_series(voxels: NDArray[np.int16], spacing: tuple[float, float, float], folder: Path) -> list[Path]:
    """Write a CT, a file for each slice."""
    folder.mkdir(parents=True)
    study, series, frame = (derive_uid("bench infer", what) for what in ("study", "series", "frame"))
    files = []
    for k, plane in enumerate(voxels):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, derive_uid("bench infer", str(k))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Bench", "BENCH", "", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "120000", "1", "A1"
        ds.ReferringPhysicianName, ds.PositionReferenceIndicator, ds.Manufacturer = "", "", "bench"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 1, k + 1
        ds.Rows, ds.Columns = plane.shape
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-180, -180, round(k * spacing[0], 4)]
        ds.PixelSpacing, ds.SliceThickness = [round(spacing[1], 6), round(spacing[2], 6)], spacing[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
        ds.PixelData = plane.tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)
        files.append(folder / f"{k:04}.dcm")
    return files


def write_nifti(volume: Volume, file: Path) -> None:
    """Write what MONAI shall read: the same voxels and affine, uncompressed, which it reads fastest."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.affine
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)), ras)  # type: ignore[no-untyped-call]
    nibabel.save(image, file)


def write_bundle(folder: Path, volume: Volume, *, seconds: float, device: str) -> Path:
    """Write a bundle with the configuration of the zoo's spleen_ct_segmentation and weights that find something."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(_configuration(), indent=1))
    meta = {
        "version": "0.5.9",
        "name": "Spleen bench",
        "network_data_format": {"outputs": {"pred": {"channel_def": {}}}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(meta))
    (folder / "dicom.toml").write_text(DICOM_TOML)
    key = hashlib.sha256(volume.voxels[::7, ::7, ::7].tobytes() + f"{NETWORK} {seconds}".encode()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"imaging-ai-bench-{key}.pt"
    if not kept.is_file():
        torch.save(_trained(volume, seconds, device), kept)
    (folder / "models" / "model.pt").write_bytes(kept.read_bytes())
    return folder


def _trained(volume: Volume, seconds: float, device: str) -> dict[str, torch.Tensor]:
    """Train so many steps as take about that many seconds on two cores; the same weights every time on one machine."""
    torch.manual_seed(1)
    image = torch.as_tensor(Spacing(PIXDIM)(image_tensor(volume)[None]))[0]
    smooth = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), 2.0))
    target = ((smooth > 95) & (smooth < 250)).float()
    image = ((image + 57) / 221).clamp(0, 1)
    network = UNet(**NETWORK).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    steps = max(1, int(seconds / 0.45))
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    for _ in range(steps):
        corner = [int(torch.randint(0, max(1, n - WINDOW + 1), ())) for n in image.shape]
        part = tuple(slice(c, c + WINDOW) for c in corner)
        given, wanted = image[part][None, None].to(device), target[part][None, None].to(device)
        with torch.autocast(device, torch.bfloat16):
            answer = network(given)
        loss = loss_of(answer.float(), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"trained {steps} steps to a loss of {float(loss):.3f}", flush=True)
    return {key: value.cpu() for key, value in network.state_dict().items()}


def _configuration() -> dict[str, Any]:
    """Return the zoo's `inference.json`, with the data of one folder."""
    key = {"keys": "@image_key"}
    scale = {"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True}
    return {
        "imports": ["$import glob", "$import numpy", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "UNet", **NETWORK},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **key},
                {"_target_": "EnsureChannelFirstd", **key},
                {"_target_": "Orientationd", **key, "axcodes": "RAS"},
                {"_target_": "Spacingd", **key, "pixdim": list(PIXDIM), "mode": "bilinear"},
                {"_target_": "ScaleIntensityRanged", **key, **scale},
                {"_target_": "EnsureTyped", **key},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [WINDOW] * 3,
            "sw_batch_size": 4,
            "overlap": 0.5,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "@image_key",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_ext": ".nii.gz",
                    "output_dtype": "$numpy.float32",
                    "output_postfix": "trans",
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": True,
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    }
