"""Where models run."""

from __future__ import annotations

import pytest
import torch

from imaging_ai.errors import ConfigError
from imaging_ai.infer.device import choose_device, gpu_memory


def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu", threads=1).type == "cpu"
    with pytest.raises(ConfigError, match="device 'tpu9'"):
        choose_device("tpu9", threads=1)
    with pytest.raises(ConfigError, match="GPUs; use cpu or auto"):
        choose_device("cuda:99", threads=1)


def test_a_processor_holds_nothing_of_a_gpu() -> None:
    assert gpu_memory(torch.device("cpu")) == (0, 0, 0)
