"""MONAI's detector of boxes, run as the Model Zoo's bundle runs it, and without torchvision.

A detector (Lin et al., ICCV 2017, "Focal loss for dense object detection") is a network, anchors, and a choice of
boxes; its code is MONAI's, and a bundle's configuration sets it up by calls. How it is called stands in the bundle's
own `scripts/` (`RetinaNetInferer`), which are not run: an image that has fewer voxels than a window goes through the
network as a whole, a larger one window by window.

MONAI builds the feature pyramid (Lin et al., CVPR 2017) by a class of torchvision, of which there is one build for
each build of PyTorch: `feature_pyramid` builds the same one, with the same names of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torch import nn

from imaging_ai.errors import ModelFailed

__all__ = ["Boxes", "Retina", "feature_pyramid"]

_CHANNELS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of one image, by the keys that the bundle has for them.

    `boxes` is ``[box, low and high corner]`` in indices of the image (voxel centres are at whole ones), `labels` and
    `scores` are ``[box]``.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    keys: tuple[str, str, str]


class Retina:
    """A `RetinaNetDetector` that is set up; with `always_windows` every image is read window by window."""

    def __init__(self, detector: Any, *, always_windows: bool = False) -> None:
        self._detector = detector.eval()
        self._always_windows = always_windows

    def __call__(self, image: torch.Tensor, network: nn.Module, progress: Callable[[float], None]) -> Boxes:
        """Return the boxes in an image ``[1, channel, x, y(, z)]``; `progress` is told the part that is done.

        Raises
        ------
        ModelFailed
            If they are no boxes.
        """
        self._detector.network = network
        windows = self._windows(image)
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            progress(min(1.0, done / max(1, windows)))
            done += 1

        hooks = network.register_forward_pre_hook(count), network.register_forward_hook(_in_full)
        try:
            (found,) = self._detector(image, use_inferer=windows > 0)
        finally:
            for hook in hooks:
                hook.remove()
        progress(1.0)
        keys = self._detector.target_box_key, self._detector.target_label_key, self._detector.pred_score_key
        boxes, labels, scores = (found[key].detach().float().cpu() for key in keys)
        if not all(bool(values.isfinite().all()) for values in (boxes, scores)):
            raise ModelFailed("the network answered boxes that are not numbers")
        return Boxes(boxes, labels.long(), scores, keys)

    def _windows(self, image: torch.Tensor) -> int:
        """Return how many windows an image is read in, 0 where it goes through the network as a whole."""
        inferer, spatial = self._detector.inferer, image.shape[2:]
        if inferer is None:
            return 0
        roi = inferer.roi_size if isinstance(inferer.roi_size, Sequence) else [inferer.roi_size] * len(spatial)
        sides = [window if window > 0 else size for window, size in zip(roi, spatial, strict=True)]
        if not self._always_windows and math.prod(spatial) < math.prod(sides):
            return 0
        steps = [max(1, int(side * (1 - float(inferer.overlap)))) for side in sides]
        each = [
            1 + max(0, math.ceil((size - side) / step)) for size, side, step in zip(spatial, sides, steps, strict=True)
        ]
        return math.prod(each)


def _in_full(_network: nn.Module, _given: object, answer: Any) -> Any:
    """Write what a network answers as float32: MONAI keeps boxes in the precision of the scores, and bfloat16 counts
    in steps of two beyond 256.
    """
    if isinstance(answer, torch.Tensor):
        return answer.float()
    if isinstance(answer, Mapping):
        return {key: _in_full(_network, _given, part) for key, part in answer.items()}
    return [_in_full(_network, _given, part) for part in answer]


def feature_pyramid(
    backbone: nn.Module,
    spatial_dims: int,
    pretrained_backbone: bool = False,
    returned_layers: Sequence[int] = (1, 2, 3),
    trainable_backbone_layers: int | None = None,
) -> nn.Module:
    """Build what MONAI's `resnet_fpn_feature_extractor` does; which layers could be trained is not asked here."""
    return _Pyramid(backbone, spatial_dims, returned_layers)


class _Stages(nn.ModuleDict):
    """The layers of a residual network up to the last of some stages; it answers what these answer, by their place."""

    def __init__(self, backbone: nn.Module, stages: Sequence[int]) -> None:
        layers = dict(backbone.named_children())
        names = list(layers)
        super().__init__({name: layers[name] for name in names[: names.index(f"layer{max(stages)}") + 1]})
        self._places = {f"layer{stage}": str(place) for place, stage in enumerate(stages)}

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        answers = {}
        for name, layer in self.items():
            features = layer(features)
            if name in self._places:
                answers[self._places[name]] = features
        return answers


class _Pyramid(nn.Module):
    """A residual network below a feature pyramid; `body` and `fpn` are what its weights are called by."""

    def __init__(self, backbone: nn.Module, spatial_dims: int, stages: Sequence[int]) -> None:
        super().__init__()
        narrowest = int(backbone.in_planes) // 8  # type: ignore[arg-type]  # of the last stage, whichever are used
        self.body = _Stages(backbone, stages)
        self.fpn = FeaturePyramidNetwork(
            spatial_dims=spatial_dims,
            in_channels_list=[narrowest * 2 ** (stage - 1) for stage in stages],
            out_channels=_CHANNELS,
            extra_blocks=LastLevelMaxPool(spatial_dims),
        )
        self.out_channels = _CHANNELS

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        answers: dict[str, torch.Tensor] = self.fpn(self.body(images))
        return answers
