"""A bundle that detects what is bright, so that where its boxes must lie is known: in the style of the Model Zoo's.

All around the network is MONAI's: anchors, the decoding of boxes, their choice, windows, transforms. The network itself
is a script of the bundle, of which the tests of other things need not know.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["DICOM_TOML", "BrightBoxes", "blocks", "bright_boxes_bundle"]

DICOM_TOML = """
[model]
name = "Bright boxes"
version = "1.0.0"
manufacturer = "imaging-ai tests"

[accepts]
Modality = "CT"

[detect]

[[classes]]
value = 0
label = "Nodule"
finding = ["27925004", "SCT", "Nodule"]
finding_site = ["39607008", "SCT", "Lung"]
threshold = 0.5
"""


class BrightBoxes(nn.Module):
    """A network of MONAI's RetinaNetDetector that says a box for each piece that is brighter than a tenth.

    Its score is how bright the piece is. An anchor of eight voxels lies on each voxel.
    """

    cls_key, box_reg_key, num_anchors, num_classes = "classification", "box_regression", 1, 1

    def __init__(self, spatial_dims: int = 3) -> None:
        super().__init__()
        self.spatial_dims, self.size_divisible = spatial_dims, 1
        self.register_buffer("least", torch.tensor(0.1))
        self.layer = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(1, 1, 1)  # by which flat networks are known

    def forward(self, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        import numpy as np
        from monai.apps.detection.utils.box_coder import BoxCoder
        from scipy import ndimage

        dims = self.spatial_dims
        coder = BoxCoder(weights=(1.0,) * 2 * dims)
        scores = torch.full((len(images), 1, *images.shape[2:]), -20.0)
        boxes = torch.zeros(len(images), 2 * dims, *images.shape[2:])
        for number, image in enumerate(images[:, 0].numpy()):
            pieces, _ = ndimage.label(image > float(self.least))
            for piece, found in enumerate(ndimage.find_objects(pieces), start=1):
                low = np.array([side.start - 0.5 for side in found])
                high = np.array([side.stop - 0.5 for side in found])
                place = tuple(np.rint((low + high) / 2).astype(int).clip(0, np.array(image.shape) - 1))
                anchor = torch.tensor([[*(c - 4.0 for c in place), *(c + 4.0 for c in place)]])
                wanted = torch.tensor(np.array([[*low, *high]]), dtype=torch.float32)
                bright = float(np.clip(image[pieces == piece].max(), 0.001, 0.999))
                scores[(number, 0, *place)] = float(np.log(bright / (1 - bright)))
                boxes[(number, slice(None), *place)] = coder.encode_single(wanted, anchor)[0]
        return {self.cls_key: [scores], self.box_reg_key: [boxes]}


def bright_boxes_bundle(
    folder: Path,
    *,
    dims: int = 3,
    pixdim: Sequence[float] | None = None,
    window: Sequence[int] | None = None,
    dicom_toml: str | None = DICOM_TOML,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the bundle; its images are resampled to `pixdim`, and read in windows where `window` is smaller."""
    for name in ("configs", "models", "scripts"):
        (folder / name).mkdir(parents=True)
    source = inspect.getsource(BrightBoxes)
    (folder / "scripts" / "bright.py").write_text(f"import torch\nfrom torch import nn\n\n{source}")
    (folder / "scripts" / "__init__.py").write_text("")
    torch.save(BrightBoxes(dims).state_dict(), folder / "models" / "model.pt")
    (folder / "configs" / "inference.json").write_text(json.dumps(_config(dims, pixdim, window) | dict(changes or {})))
    if dicom_toml is not None:
        (folder / "dicom.toml").write_text(dicom_toml)
    return folder


def _config(dims: int, pixdim: Sequence[float] | None, window: Sequence[int] | None) -> dict[str, Any]:
    spacing = {"_target_": "Spacingd", "keys": "image", "pixdim": pixdim, "_disabled_": "@as_it_is"}
    scaling = {"a_min": 0.0, "a_max": 400.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
    to_world = {"box_ref_image_keys": "image", "image_meta_key_postfix": "meta_dict", "affine_lps_to_ras": True}
    windows = "$@detector.set_sliding_window_inferer(roi_size=@window,overlap=0.5,sw_batch_size=1,mode='constant')"
    before: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "reader": "itkreader", "affine_lps_to_ras": True},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        *([spacing] if pixdim else []),
        {"_target_": "ScaleIntensityRanged", "keys": "image", **scaling},
        {"_target_": "EnsureTyped", "keys": "image"},
    ]
    after: list[dict[str, Any]] = [
        {"_target_": "ClipBoxToImaged", "box_keys": "box", "label_keys": "label", "box_ref_image_keys": "image"},
        {"_target_": "AffineBoxToWorldCoordinated", "box_keys": "box", **to_world},
        {"_target_": "ConvertBoxModed", "box_keys": "box", "src_mode": "xyzxyz", "dst_mode": "cccwhd"},
        {"_target_": "DeleteItemsd", "keys": ["image"]},
    ]
    flat = [step for step in before if step["_target_"] not in ("Orientationd", "Spacingd")]
    return {
        "as_it_is": False,
        "window": list(window or [512] * dims),
        "anchor_generator": {
            "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
            "feature_map_scales": [1],
            "base_anchor_shapes": [[8] * dims],
        },
        "network_def": {"_target_": "scripts.bright.BrightBoxes", "spatial_dims": dims},
        "detector": {
            "_target_": "RetinaNetDetector",
            "network": "@network_def",
            "anchor_generator": "@anchor_generator",
        },
        "detector_ops": [
            "$@detector.set_target_keys(box_key='box', label_key='label')",
            "$@detector.set_box_selector_parameters(score_thresh=0.02,nms_thresh=0.22,detections_per_img=300)",
            windows,
            "$@detector.set_balanced_sampler(batch_size_per_image=64, positive_fraction=0.3)",
        ],
        "preprocessing": {"_target_": "Compose", "transforms": flat if dims == 2 else before},
        "inferer": {"_target_": "scripts.detection_inferer.RetinaNetInferer", "detector": "@detector"},
        "postprocessing": {"_target_": "Compose", "transforms": after[:1] if dims == 2 else after},
        "evaluator": {"_target_": "scripts.evaluator.DetectionEvaluator", "_requires_": "@detector_ops"},
    }


def blocks(shape: tuple[int, int, int], places: Mapping[tuple[tuple[int, int], ...], float]) -> NDArray[np.float32]:
    """Make an image with a bright block at each place: first and last slice, row and column, and how bright."""
    image = np.zeros(shape, np.float32)
    for sides, value in places.items():
        image[tuple(slice(first, last + 1) for first, last in sides)] = value
    return image
