"""A bundle that classifies by what can be worked out by hand: how bright an image is on the mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["DICOM_TOML", "bright_slices", "brightness_bundle"]

DICOM_TOML = """
[model]
name = "Brightness"
version = "1.0.0"
manufacturer = "imaging-ai tests"

[accepts]
Modality = "CT"

[classify]
level = "series"
temperature = 2.0

[[classes]]
value = 1
label = "Bright"
finding = ["52988006", "SCT", "Lesion"]
finding_site = ["10200004", "SCT", "Liver"]
threshold = 0.6
"""


def brightness_bundle(
    folder: Path,
    size: tuple[int, ...],
    *,
    dicom_toml: str | None = DICOM_TOML,
    activation: str = "softmax",
    metadata: dict[str, object] | None = None,
) -> Path:
    """Write a MONAI bundle that answers, of an image of `size` (x, y or x, y, z), 0 and its mean.

    So the log-odds of class 1 are the mean. One of two axes reads slices one by one.
    """
    import torch  # heavy: only for those who make a bundle

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    keys = "@image_key"
    content = {
        "image_key": "image",
        "output_dir": "/nowhere",
        "network_def": {
            "_target_": f"torch.nn.Conv{len(size)}d",
            "in_channels": 1,
            "out_channels": 2,
            "kernel_size": list(size),
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": keys},
                {"_target_": "EnsureChannelFirstd", "keys": keys},
                {"_target_": "EnsureTyped", "keys": keys},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", activation: True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveClassificationd", "keys": "pred", "output_dir": "@output_dir"},
            ],
        },
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(content, indent=2))
    if metadata is not None:
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    weight = torch.zeros(2, 1, *size)
    weight[1] = 1 / weight[1].numel()
    torch.save({"weight": weight, "bias": torch.zeros(2)}, folder / "models" / "model.pt")
    if dicom_toml is not None:
        (folder / "dicom.toml").write_text(dicom_toml)
    return folder


def bright_slices(means: list[float], rows: int = 6, columns: int = 5) -> NDArray[np.float32]:
    """Make slices of which each has the mean that is given."""
    return np.broadcast_to(np.array(means, np.float32)[:, None, None], (len(means), rows, columns)).copy()
