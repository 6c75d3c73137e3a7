"""A network that was made ready answers what it answered before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from imaging_ai.infer.engine import in_precision, laid_out, make_ready
from imaging_ai.infer.layers import Doubling, Runs


def seasoned(network: nn.Module) -> nn.Module:
    """Give the normalisations statistics as of a training."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            for values in (layer.running_mean, layer.bias, layer.running_var, layer.weight):
                assert values is not None
                values.data.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def normalisations(network: nn.Module) -> int:
    return sum(isinstance(layer, _BatchNorm) for layer in network.modules())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "UNet": (lambda: UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2, norm="batch", dropout=0.1), 0),
    "UNet in 2D": (lambda: UNet(2, 1, 2, (4, 8, 16), (2, 2), norm="batch"), 0),
    "BasicUNet": (lambda: BasicUNet(3, 1, 2, (4, 4, 8, 8, 8, 4), norm="batch"), 0),
    "SegResNet, normalised before": (lambda: SegResNet(3, 4, 1, 2, norm="batch"), 25),
    "DenseNet, some before": (lambda: DenseNet(3, 1, 2, 8, 4, (2, 2)), 6),
    "instances": (lambda: UNet(3, 1, 2, (4, 8), (2,), norm="instance"), 0),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_answers_the_same(name: str, channels_last: bool) -> None:
    make, left = NETWORKS[name]
    network = seasoned(make())
    image = torch.randn(1, 1, *[32] * (2 if "2D" in name else 3))
    before = network(image)
    make_ready(network, channels_last=channels_last)
    assert torch.allclose(network(image), before, atol=1e-4, rtol=1e-4)
    assert normalisations(network) == left


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_doubling_by_channels_is_the_transposed_convolution(bias: bool, channels_last: bool) -> None:
    network = seasoned(nn.Sequential(nn.ConvTranspose3d(5, 3, 3, stride=2, padding=1, output_padding=1, bias=bias)))
    image = torch.randn(2, 5, 4, 6, 3)
    expected = network(image)
    make_ready(network, channels_last=channels_last)
    assert isinstance(network[0], Doubling)
    assert network(image).shape == expected.shape
    assert torch.allclose(network(image), expected, atol=1e-5)


@pytest.mark.parametrize("how", [{"output_padding": 0}, {"dilation": 2}, {"groups": 3}, {"stride": 3}], ids=str)
def test_other_transposed_convolutions_stay(how: dict[str, int]) -> None:
    usual = {"stride": 2, "padding": 1, "output_padding": 1}
    network = nn.Sequential(nn.ConvTranspose3d(3, 3, 3, **{**usual, **how})).eval()
    make_ready(network, channels_last=False)
    assert type(network[0]) is nn.ConvTranspose3d


@pytest.mark.parametrize("channels", [(1, 1), (2, 2), (1, 3), (4, 3)], ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_runs_are_the_convolution(channels: tuple[int, int], channels_last: bool) -> None:
    network = seasoned(nn.Sequential(nn.Conv3d(*channels, 3, padding=1, bias=channels_last)))
    images = [torch.randn(2, channels[0], 4, 3, z) for z in (1, 5, 16, 37)]
    expected = [network(image) for image in images]
    make_ready(network, channels_last=channels_last)
    assert isinstance(network[0], Runs)
    for image, answer in zip(images, expected, strict=True):
        assert network(image).shape == answer.shape
        assert torch.allclose(network(image), answer, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [{"padding": 0}, {"stride": 2}, {"dilation": 2}, {"groups": 3}, {"padding_mode": "circular"}, {"kernel_size": 5}],
    ids=str,
)
def test_other_convolutions_of_few_channels_stay(how: dict[str, Any]) -> None:
    network = nn.Sequential(nn.Conv3d(3, 3, **{"kernel_size": 3, "padding": 1, **how})).eval()
    make_ready(network, channels_last=False)
    assert type(network[0]) is nn.Conv3d


def test_gradients_go_through_what_takes_the_place_of_a_layer() -> None:
    network = seasoned(nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Sigmoid()))
    image = torch.randn(1, 1, 5, 6, 7, requires_grad=True)
    (expected,) = torch.autograd.grad(network(image).sum(), image)
    make_ready(network, channels_last=True)
    (found,) = torch.autograd.grad(network(image).sum(), image)
    assert torch.allclose(found, expected, atol=1e-5)


def test_layers_that_are_used_twice_are_left_alone() -> None:
    convolution, normalisation = nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1)
    network = seasoned(nn.Sequential(convolution, normalisation, convolution, normalisation))
    image = torch.randn(1, 1, 4, 4, 4)
    before = network(image)
    make_ready(network, channels_last=False)
    assert torch.equal(network(image), before)


def test_a_normalisation_without_statistics_stays() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2, track_running_stats=False)).eval()
    make_ready(network, channels_last=False)
    assert normalisations(network) == 1


def test_who_listens_to_a_normalisation_hears_the_same() -> None:
    network = seasoned(nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.ReLU()))
    image, heard = torch.randn(1, 1, 4, 4, 4), []
    for _ in range(2):
        with network.get_submodule("1").register_forward_hook(lambda _layer, _given, answer: heard.append(answer)):
            network(image)
        make_ready(network, channels_last=True)
    assert torch.allclose(*heard, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_precision_holds_within_its_block(precision: torch.dtype) -> None:
    layer, image = nn.Conv3d(1, 2, 1), torch.randn(1, 1, 4, 4, 4)
    with in_precision(torch.device("cpu"), precision):
        assert layer(image).dtype == precision
    assert layer(image).dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(4, 5, 6), (1, 5, 6), (4, 5)], ids=str)
def test_windows_are_laid_out_channel_by_channel_and_answers_with_them(channels: int, size: tuple[int, ...]) -> None:
    flat = len(size) == 2
    kind, last = (nn.Conv2d, torch.channels_last) if flat else (nn.Conv3d, torch.channels_last_3d)
    layer, windows = kind(channels, 4, 3, padding=1), torch.randn(3, channels, *size[::-1]).transpose(2, -1)
    given = laid_out(windows)
    assert given.stride()[1] == 1
    assert torch.equal(given, windows)
    assert layer(given).is_contiguous(memory_format=last)
    assert torch.allclose(layer(given), layer(windows.contiguous()), atol=1e-6)


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("how", ["hook", "parametrization"])
def test_weights_that_are_made_of_others_stay(how: str, channels: int) -> None:
    normalised: Any = nn.utils.weight_norm if how == "hook" else nn.utils.parametrizations.weight_norm
    network = nn.Sequential(normalised(nn.Conv3d(1, channels, 3, padding=1)), nn.BatchNorm3d(channels))
    seasoned(network)
    state = {key: value + 0.1 for key, value in network.state_dict().items()}
    network.load_state_dict(state)  # as a checkpoint is: what the weights are made of, and not they themselves
    reference = nn.Sequential(normalised(nn.Conv3d(1, channels, 3, padding=1)), nn.BatchNorm3d(channels)).eval()
    reference.load_state_dict(state)
    make_ready(network, channels_last=False)
    image = torch.randn(1, 1, 8, 8, 8)
    assert torch.allclose(network(image), reference(image), atol=1e-4)
