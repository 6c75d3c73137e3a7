"""Bundles of the MONAI Model Zoo with the weights that their networks begin with, so that what they say is noise."""

from __future__ import annotations

import shutil
from pathlib import Path

from imaging_ai.infer.expressions import GLOBALS, Allowed
from imaging_ai.infer.settings import read_config

__all__ = ["random_bundle"]


def random_bundle(source: Path, target: Path, *, seed: int) -> Path:
    """Copy a bundle that has no weights to `target`, and give it random ones."""
    import torch
    from monai.bundle.config_item import ComponentLocator
    from monai.bundle.config_parser import ConfigParser

    shutil.copytree(source, target)
    config = read_config(target / "configs" / "inference.json", target, "cpu", Allowed(ComponentLocator()))
    parser = ConfigParser(config.content, globals=GLOBALS)
    torch.manual_seed(seed)
    (target / "models").mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), parser.get_parsed_content("weights"))
    return target
