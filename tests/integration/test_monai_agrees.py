"""The Model Zoo's spleen configuration, run by us from DICOM and by MONAI's own transforms from NIfTI: one answer.

The network is one whose answer means something without training: it smooths, and finds what is as bright as an organ
with contrast.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.volume import Volume
from imaging_ai.infer import windows
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.volume import read_volume

NETWORK = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1}
BRIGHT = 0.7


@pytest.fixture
def spleen(real_data: Path, tmp_path: Path) -> ModelEntry:
    folder = Path(shutil.copytree(real_data / "zoo" / "spleen_ct_segmentation", tmp_path / "spleen"))
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] = NETWORK
    config["postprocessing"]["transforms"].pop()  # SaveImaged
    file.write_text(json.dumps(config))
    (folder / "models").mkdir()
    weight = torch.cat([torch.zeros(1, 1, 3, 3, 3), torch.full((1, 1, 3, 3, 3), 40 / 27)])
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -40 * BRIGHT])}, folder / "models" / "model.pt")
    return read_model(folder)


@pytest.fixture
def abdomen(real_data: Path) -> Volume:
    files = (file for file in sorted((real_data / "ct-abdomen-3mm" / "dicom").rglob("*")) if file.is_file())
    volume = read_volume(data for file in files if (data := file.read_bytes())[128:132] == b"DICM")
    return dataclasses.replace(
        volume,
        voxels=volume.voxels[20:71].copy(),
        grid=dataclasses.replace(volume.grid, slices=51),
        sources=volume.sources[20:71],
    )


def by_monai(entry: ModelEntry, volume: Volume, folder: Path) -> NDArray[np.bool_]:
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.affine
    nibabel.save(nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), ras), folder / "image.nii")
    parser = ConfigParser(json.loads((entry.path / "configs" / "inference.json").read_text()))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(entry.path / "models" / "model.pt"))
    with torch.inference_mode():
        data = parser.get_parsed_content("preprocessing")({"image": folder / "image.nii"})
        answer = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
        data["pred"] = MetaTensor(answer.as_tensor(), meta=data["image"].meta)
        labels: Any = parser.get_parsed_content("postprocessing")(data)["pred"]
    return np.asarray(labels[0].numpy().transpose(2, 1, 0) > 0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_the_answer_of_monai(
    spleen: ModelEntry,
    abdomen: Volume,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: torch.dtype,
) -> None:
    monkeypatch.setattr(windows, "fast_precision", lambda _device: precision)
    expected = by_monai(spleen, abdomen, tmp_path)
    model = load_bundle(spleen)
    found = model.predict(abdomen) > 0
    assert expected.sum() > 10_000
    dice = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert dice > (0.9999 if precision == torch.float32 else 0.99)
    assert bool(model.how) == (precision == torch.bfloat16)
