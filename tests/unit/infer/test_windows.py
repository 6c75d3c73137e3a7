"""Windows go through the network as in MONAI's sliding window; less memory or precision is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SimpleInferer, SlidingWindowInferer
from torch import nn

from imaging_ai.infer import windows
from imaging_ai.infer.familiar import listening
from imaging_ai.infer.windows import Windows

Network = Callable[[torch.Tensor], Any]


def silent(_part: float) -> None:
    """Take no note of the progress."""


class Asked(nn.Module):
    """A network that answers by a function."""

    def __init__(self, answer: Network) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, given: torch.Tensor) -> Any:
        return self.answer(given)


def convolution() -> nn.Module:
    torch.manual_seed(1)
    return nn.Conv3d(1, 3, 3, padding=1).eval().requires_grad_(False)


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the processor multiplies bfloat16 fast."""
    monkeypatch.setattr(windows, "fast_precision", lambda _device: torch.bfloat16)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", [(20, 23, 17), (9, 30, 16), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("overlap", [0.5, (0.25, 0.0, 0.6)], ids=str)
def test_the_answer_is_that_of_monai(mode: str, shape: tuple[int, ...], overlap: Any) -> None:
    inferer = SlidingWindowInferer((12, 12, 12), 4, overlap, mode=mode)
    image, network = torch.randn(1, 1, *shape), convolution()
    assert torch.allclose(Windows(inferer)(image, network, silent), inferer(image, network), atol=1e-5)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda given: [given * 2, given[..., ::2, ::2, ::2]], id="deep supervision"),
        pytest.param(lambda given: nn.functional.avg_pool3d(given, 2), id="half the resolution"),
    ],
)
def test_networks_may_answer_otherwise(answer: Network) -> None:
    inferer = SlidingWindowInferer((8, 8, 8), 2, 0.5)
    image = torch.randn(1, 1, 16, 16, 16)
    expected = inferer(image, lambda given: answer(given)[0] if isinstance(answer(given), list) else answer(given))
    assert torch.allclose(Windows(inferer)(image, Asked(answer), silent), expected, atol=1e-6)


def test_an_inferer_without_windows_gets_the_whole_image() -> None:
    image, network = torch.randn(1, 1, 6, 7, 8), convolution()
    assert torch.equal(Windows(SimpleInferer())(image, network, silent), network(image))


def test_windows_that_are_the_same_throughout_are_asked_once() -> None:
    inferer, image = SlidingWindowInferer((8, 8, 8), 4, 0.0), torch.zeros(1, 1, 32, 32, 32)
    image[..., :8, :8, :8] = torch.randn(8, 8, 8)
    image[..., 24:, 24:, 24:] = 3.0
    seen: list[int] = []
    layer = convolution()

    def noted(given: torch.Tensor) -> torch.Tensor:
        seen.append(len(given))
        return torch.as_tensor(layer(given))

    network = Asked(noted)
    found = Windows(inferer)(image, network, silent)
    assert sum(seen) == 3
    assert torch.allclose(found, inferer(image, network), atol=1e-6)


def threshold(at: float) -> Network:
    layer = nn.Conv3d(1, 2, 1).requires_grad_(False)
    layer.weight.copy_(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1))
    layer.bias.copy_(torch.tensor([0.0, -at]))
    return layer


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_stays_where_the_image_agrees() -> None:
    image = torch.where(torch.rand(1, 1, 24, 24, 24) > 0.5, 200.0, 100.0)
    run = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision="auto")
    found = run(image, Asked(threshold(150)), silent)
    assert torch.equal(found.argmax(1, keepdim=True), (image > 150).long())
    assert run.notes == ("bfloat16 agrees with float32 by a Dice of 1.0000 where labels change most",)


@pytest.mark.usefixtures("bfloat16")
def test_float32_takes_over_where_it_does_not() -> None:
    image = 1000 + torch.rand(1, 1, 24, 24, 24)
    run = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision="auto")
    found = run(image, Asked(threshold(1000.5)), silent)
    assert torch.equal(found.argmax(1, keepdim=True), (image > 1000.5).long())
    assert run.notes[-1] == "too little: all of it ran in float32"


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_author_may_choose_the_precision(precision: str) -> None:
    kinds: list[torch.dtype] = []
    layer = convolution()

    def told(given: torch.Tensor) -> torch.Tensor:
        answer = layer(given)
        kinds.append(answer.dtype)
        return torch.as_tensor(answer)

    run = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision=precision)
    assert run(torch.randn(1, 1, 24, 24, 24), Asked(told), silent).dtype == torch.float32
    assert {str(kind) for kind in kinds} == {f"torch.{precision}"}
    assert run.notes == ()


def test_a_gpu_has_more_steps_to_fall_back_to() -> None:
    run = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5))
    plans = [str(plan) for plan in run._plans(torch.device("cuda", 0), torch.bfloat16)]
    assert plans == [
        *(f"{batch} windows at once on the cuda" for batch in (16, 8, 4, 2)),
        "1 window at once on the cuda",
        "1 window at once on the cuda, put together on the cpu",
        "1 window at once on the cpu",
    ]


def test_the_same_image_gives_the_same_numbers() -> None:
    run, network = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision="bfloat16"), convolution()
    image = torch.randn(1, 1, 20, 20, 20)
    assert torch.equal(run(image, network, silent), run(image, network, silent))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch use two threads, wherever this runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Forgetful(nn.Module):
    """A network that keeps its input to itself for a while, as some do, before it needs it again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept = convolution(), torch.zeros(())

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.kept = given
        time.sleep(0.002)
        return torch.as_tensor(self.layer(given) + self.kept)


@pytest.mark.usefixtures("two_threads")
def test_networks_that_remember_are_asked_in_two_threads_at_once() -> None:
    inferer, image, network = SlidingWindowInferer((8, 8, 8), 4, 0.5), torch.randn(1, 1, 24, 24, 24), Forgetful()
    assert torch.allclose(Windows(inferer)(image, network, silent), inferer(image, network), atol=1e-5)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_who_listens_hears_each_window_once_whichever_thread_asks() -> None:
    inferer, image, network = SlidingWindowInferer((8, 8, 8), 4, 0.5), torch.randn(1, 1, 24, 24, 24), convolution()
    features = []
    for _ in range(2):
        with listening(network, "") as heard:
            Windows(inferer, precision="auto")(image, network, silent)
        features.append(heard.features)
        assert heard.count == 125
    assert np.array_equal(*features)


@pytest.mark.usefixtures("two_threads", "bfloat16")
def test_who_listens_does_not_hear_the_check_of_the_precision() -> None:
    network = nn.Sequential(convolution())
    with listening(network, "0") as heard:
        Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision="auto")(
            torch.randn(1, 1, 24, 24, 24), network, silent
        )
    assert heard.count == 125


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("who", ["the network", "the progress"])
def test_what_goes_wrong_in_a_thread_ends_the_run(who: str) -> None:
    def broken(_: object) -> Any:
        raise ValueError("broken")

    network, told = (Asked(broken), silent) if who == "the network" else (convolution(), broken)
    with pytest.raises(ValueError, match="broken"):
        Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5))(torch.randn(1, 1, 24, 24, 24), network, told)
    assert torch.get_num_threads() == 2
    assert not [one for one in threading.enumerate() if one.name.startswith("lane")]


@pytest.mark.usefixtures("two_threads")
def test_a_network_that_cannot_be_copied_is_asked_in_one_thread() -> None:
    network = convolution()
    network.lock = threading.Lock()
    inferer, image = SlidingWindowInferer((8, 8, 8), 4, 0.5), torch.randn(1, 1, 20, 20, 20)
    assert torch.allclose(Windows(inferer)(image, network, silent), inferer(image, network), atol=1e-5)


def test_the_precision_is_checked_where_labels_and_background_are_most_divided() -> None:
    grid = windows._Grid.of(SlidingWindowInferer((24, 24, 24), 4, 0.5), (48, 48, 48))
    assert grid is not None
    for least, most in ((0.0, 1.0), (0.1, 0.3)):  # found, and nearly found
        share = torch.full((12, 12, 12), least)
        share[1, 1, 1] = most
        share[6:9, 3:5, 9:11] = most
        x, y, z = grid.most_divided(share, 2)
        assert {side.stop - side.start for side in (x, y, z)} == {12}
        assert x.start <= 24 < 36 <= x.stop
        assert y.start <= 12 < 20 <= y.stop
        assert z.start <= 36 < 44 <= z.stop
    share = torch.ones(12, 12, 12)
    share[:, :, 7:] = 0
    assert grid.most_divided(share, 1)[2] == slice(16, 40), "an organ larger than that: at its edge"


def test_the_check_lies_within_an_image_that_is_smaller_than_a_window() -> None:
    grid = windows._Grid.of(SlidingWindowInferer((24, 24, 24), 4, 0.5), (9, 48, 5))
    assert grid is not None
    share = torch.zeros(3, 12, 2)
    share[:, 9:] = 1
    for parts in (1, 2):
        box = grid.most_divided(share, parts)
        assert all(0 <= side.start < side.stop <= size for side, size in zip(box, grid.size, strict=True))


@pytest.mark.usefixtures("bfloat16")
def test_a_network_of_one_size_is_checked_with_a_whole_window() -> None:
    layer = threshold(150)

    def fixed(given: torch.Tensor) -> torch.Tensor:
        if given.shape[2:] != (8, 8, 8):
            raise AssertionError("8 x 8 x 8 is all that is read here")
        return torch.as_tensor(layer(given))

    run = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision="auto")
    run(torch.where(torch.rand(1, 1, 24, 24, 24) > 0.5, 200.0, 100.0), Asked(fixed), silent)
    assert run.notes == ("bfloat16 agrees with float32 by a Dice of 1.0000 where labels change most",)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("activation", [nn.Identity(), nn.Sigmoid()], ids=["numbers", "probabilities"])
def test_channels_that_overlap_are_each_compared(activation: nn.Module) -> None:
    layer = nn.Conv3d(1, 2, 1).requires_grad_(False)
    layer.weight.copy_(torch.tensor([1.0, 1.0]).reshape(2, 1, 1, 1, 1))
    layer.bias.copy_(torch.tensor([-10.0, -1000.5]))
    image = 1000 + torch.rand(1, 1, 24, 24, 24)
    notes = []
    for overlapping in (False, True):
        run = Windows(SlidingWindowInferer((8, 8, 8), 4, 0.5), precision="auto", overlapping=overlapping)
        run(image, nn.Sequential(layer, activation), silent)
        notes.append(run.notes)
    assert len(notes[0]) == 1, "the first is the largest everywhere"
    assert notes[1][-1] == "too little: all of it ran in float32"


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(("lesion", "agrees"), [(0, True), (150, True), (300, False)])
def test_a_lesion_counts_beside_a_large_organ_and_a_few_voxels_do_not(
    overlapping: bool, lesion: int, agrees: bool
) -> None:
    labels = torch.ones(40, 40, 40, dtype=torch.uint8)
    labels.view(-1)[:lesion] = 2
    other = labels.clone()
    other.view(-1)[lesion // 2 : lesion] = 1  # half of it is organ
    pair = [torch.stack([one == 1, one == 2]) if overlapping else one for one in (labels, other)]
    assert (windows._dice_at_worst(pair[0], pair[1]) >= windows._SAME) == agrees
