"""Attributions of networks whose answer can be worked out by hand, and of one that has learned where to look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from monai.networks.nets import UNet

import learners
from imaging_ai.catalog.explaining import METHODS, Explaining, Method
from imaging_ai.errors import ModelFailed, ModelOutOfMemory
from imaging_ai.explain.attribution import _stretched, attribute, baseline_of
from imaging_ai.explain.network import class_score, coarsest, explainable, region_score, trace

OPTIONS = Explaining(methods=METHODS, occlusions=125)


@pytest.fixture
def few_threads() -> Iterator[None]:
    """Keep small networks on one thread, where they are fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def linear(*weights: float, dimensions: int = 3) -> torch.nn.Module:
    """Make a network that answers, of as many channels, their weighted sum at each voxel."""
    layer = (torch.nn.Conv3d if dimensions == 3 else torch.nn.Conv2d)(len(weights), 1, 1, bias=False)
    layer.weight.data = torch.tensor(weights).reshape(layer.weight.shape)
    return layer.requires_grad_(False)


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_highest_at_the_evidence_that_the_network_learned_to_see(method: Method, dimensions: int) -> None:
    seen, there, centres = learners.images(8, seed=9999, dimensions=dimensions)
    with explainable(learners.learned(dimensions)) as network:
        for image, centre in zip(seen[there == 1], centres[there == 1], strict=True):
            found = attribute(network, image[None], class_score(1), method, OPTIONS).values
            top = torch.stack(torch.unravel_index(found.argmax(), found.shape))
            assert int((top - centre).abs().max()) <= 6, "the spot is five wide, a cell or a patch four"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_integrated_gradients_of_a_sum_are_its_parts(dimensions: int) -> None:
    image = torch.rand(1, 2, *(5, 6, 7)[:dimensions])
    mask = torch.zeros(image.shape[2:], dtype=torch.bool)
    mask[1:3, 2:4] = True
    network = linear(2.0, -1.0, dimensions=dimensions)
    with explainable(network):
        found = attribute(network, image, region_score(0, mask), "integrated-gradients", OPTIONS)
    least = baseline_of(image, "minimum")
    parts = (2 * (image - least)[0, 0] - (image - least)[0, 1]) * mask / mask.sum()
    assert torch.allclose(found.values, parts, atol=1e-5)
    assert found.completeness == pytest.approx(0, abs=1e-4)


def test_what_is_occluded_without_an_effect_weighs_nothing() -> None:
    image = torch.rand(1, 1, 12, 12, 12)
    mask = torch.zeros(12, 12, 12, dtype=torch.bool)
    mask[:3, :3, :3] = True
    with explainable(linear(1.0)) as network:
        found = attribute(network, image, region_score(0, mask), "occlusion", OPTIONS).values
    assert float(found[:3, :3, :3].min()) > 0
    assert float(found[8:, 8:, 8:].abs().max()) == 0


@pytest.mark.parametrize("kind", ["minimum", "mean", "blur"])
def test_a_baseline_lies_within_the_image_channel_by_channel(kind: str) -> None:
    image = torch.rand(1, 2, 8, 8, 8) + torch.tensor([0.0, 5.0]).reshape(1, 2, 1, 1, 1)
    baseline = baseline_of(image, kind)
    for channel in range(2):
        assert image[0, channel].min() <= baseline[0, channel].min() <= baseline[0, channel].max()
        assert baseline[0, channel].max() <= image[0, channel].max()


def test_grad_cam_looks_at_the_last_grid_of_a_classifier_and_at_the_bottom_of_a_u_net() -> None:
    layers, _ = trace(learners.fresh(), torch.rand(1, 1, 20, 20, 20))
    assert coarsest(layers, 3) == "5"
    unet = UNet(3, 1, 2, (4, 8, 16), (2, 2)).eval()
    layers, _ = trace(unet, torch.rand(1, 1, 16, 16, 16))
    assert next(one.grid for one in layers if one.name == coarsest(layers, 3)) == (4, 4, 4)


def test_the_cells_of_strided_layers_are_put_where_they_look() -> None:
    with explainable(learners.fresh()) as network:
        found = attribute(network, torch.rand(1, 1, 20, 20, 20), class_score(1), "grad-cam", OPTIONS)
    shifts = [float(part) for part in found.parameters["moved by"].removesuffix(" voxels").split(" x ")]
    assert shifts == pytest.approx([-1.5] * 3, abs=0.5), "cell i is centred at 4 i, and not at 4 i + 1.5"


def test_a_layer_may_be_chosen_by_its_name_and_an_unknown_one_is_named() -> None:
    image = torch.rand(1, 1, 20, 20, 20)
    with explainable(learners.fresh()) as network:
        chosen = attribute(network, image, class_score(1), "grad-cam", Explaining(layer="1"))
        assert chosen.parameters["cells"] == "20 x 20 x 20"
        with pytest.raises(ModelFailed, match="no 'nowhere'"):
            attribute(network, image, class_score(1), "grad-cam", Explaining(layer="nowhere"))


def test_a_network_without_images_inside_has_no_grad_cam() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2))
    with explainable(network), pytest.raises(ModelFailed, match="answers an image"):
        attribute(network, torch.rand(1, 1, 2, 2, 2), class_score(1), "grad-cam", OPTIONS)


def test_what_would_take_too_much_memory_is_refused_beforehand() -> None:
    with explainable(learners.fresh()) as network, pytest.raises(ModelOutOfMemory, match="memory_gb"):
        attribute(network, torch.rand(1, 1, 20, 20, 20), class_score(1), "occlusion", Explaining(memory_gb=1e-6))


def test_batches_do_not_change_the_map() -> None:
    image = torch.rand(1, 1, 20, 20, 20)
    with explainable(learners.fresh()) as network:
        few, many = (
            attribute(network, image, class_score(1), "integrated-gradients", Explaining(memory_gb=size)).values
            for size in (0.002, 1.0)
        )
    assert torch.allclose(few, many, atol=1e-6)


def test_the_network_is_left_as_it_was_in_inference_mode_too() -> None:
    network = learners.fresh().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode(), explainable(network) as lent:
        attribute(lent, torch.rand(1, 1, 20, 20, 20), class_score(1), "guided-grad-cam", OPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(layer.inplace for layer in network.modules() if isinstance(layer, torch.nn.ReLU))
    assert not any(hook for layer in network.modules() for hook in (layer._forward_hooks, layer._backward_hooks))


def test_a_network_in_half_floats_is_explained_by_a_copy_in_whole_ones() -> None:
    network = learners.fresh().bfloat16()
    with explainable(network) as lent:
        found = attribute(lent, torch.rand(1, 1, 20, 20, 20), class_score(1), "integrated-gradients", OPTIONS)
    assert found.values.dtype == torch.float32
    assert next(network.parameters()).dtype == torch.bfloat16


def test_guiding_without_a_relu_is_said_to_be_none() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.LeakyReLU(inplace=True), torch.nn.Conv3d(2, 2, 1))
    mask = torch.ones(4, 4, 4, dtype=torch.bool)
    with explainable(network):
        found = attribute(network, torch.rand(1, 1, 6, 6, 6), region_score(1, mask), "guided-grad-cam", OPTIONS)
    assert "plain" in found.parameters["gradients"]


@pytest.mark.parametrize(("shift", "place"), [(0.0, 9.5), (-1.5, 8.0), (2.0, 11.5)])
def test_a_cell_is_highest_where_its_centre_was_moved_to(shift: float, place: float) -> None:
    fine = _stretched(torch.eye(5)[2], (20,), [shift])
    assert float((fine * torch.arange(20)).sum() / fine.sum()) == pytest.approx(place, abs=1e-5)
