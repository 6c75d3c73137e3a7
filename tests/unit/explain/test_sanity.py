"""The checks tell a map of what a network uses from one of noise, and a trained network from one that is not."""

from __future__ import annotations

import pytest
import torch

import learners
from imaging_ai.catalog.explaining import METHODS, Explaining, Method
from imaging_ai.explain.attribution import attribute, baseline_of
from imaging_ai.explain.network import class_score, explainable
from imaging_ai.explain.sanity import Curves, curves, randomised
from imaging_ai.explain.words import TRUSTED_MARGIN, UNTRAINED_MOST

OPTIONS = Explaining(methods=METHODS, occlusions=64)


def spots() -> torch.Tensor:
    seen, there, _ = learners.images(6, seed=9999, dimensions=2)
    return seen[there == 1]


def checked(network: torch.nn.Module, image: torch.Tensor, values: torch.Tensor) -> Curves:
    return curves(network, image, values, class_score(1, "softmax"), baseline_of(image, "minimum"), at_once=16)


@pytest.mark.parametrize("method", METHODS)
def test_insertion_is_above_chance_and_deletion_below_it_for_the_trained_network_only(method: Method) -> None:
    margins = {}
    for name, made in (("trained", learners.learned(2)), ("random", learners.fresh(2, seed=1))):
        with explainable(made) as network:
            found = [
                checked(network, image[None], attribute(network, image[None], class_score(1), method, OPTIONS).values)
                for image in spots()
            ]
        if name == "trained":
            assert all(one.insertion > one.random_insertion for one in found)
            assert all(one.deletion < one.random_deletion for one in found)
        margins[name] = [one.margin for one in found]
    assert min(margins["trained"]) > TRUSTED_MARGIN > max(margins["random"])


def test_a_map_of_noise_is_no_better_than_chance_though_the_network_is_trained() -> None:
    for number, image in enumerate(spots()):
        noise = torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(number))
        assert checked(learners.learned(2), image[None], noise).margin < TRUSTED_MARGIN


def test_a_map_upside_down_is_worse_than_chance() -> None:
    (image, *_) = spots()
    with explainable(learners.learned(2)) as network:
        found = attribute(network, image[None], class_score(1), "integrated-gradients", OPTIONS).values
    assert checked(network, image[None], -found).margin < 0


def test_the_map_of_a_network_that_forgets_is_another_and_the_network_is_left_as_it_was() -> None:
    (image, *_) = spots()
    network = learners.learned(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with explainable(network):
        stages = randomised(
            network,
            image[None],
            lambda other: attribute(other, image[None], class_score(1), "integrated-gradients", OPTIONS).values,
        )
    assert [one.layers for one in stages] == [1, 2, 4], "from the answer to the image"
    assert abs(stages[-1].rank_correlation) < UNTRAINED_MOST
    assert stages[-1].ssim < 0.5
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_method_that_looks_at_the_image_alone_is_seen_through() -> None:
    (image, *_) = spots()
    stages = randomised(learners.learned(2), image[None], lambda _: image[0])
    assert stages[-1].rank_correlation == pytest.approx(1)
    assert stages[-1].ssim == pytest.approx(1)


def test_the_same_question_has_the_same_answer() -> None:
    (image, *_) = spots()
    assert checked(learners.learned(2), image[None], image[0]) == checked(learners.learned(2), image[None], image[0])
