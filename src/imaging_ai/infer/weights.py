"""Files of a bundle that hold tensors: read as data, never as code (`weights_only` of `torch.load`)."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imaging_ai.errors import BundleInvalid

__all__ = ["file_reader", "fill"]

#: Checkpoints hold the state_dict of the network under one of these, or under the name that the bundle gives.
_WITHIN = ("model", "state_dict", "network", "net", "model_state_dict", "network_weights")
_RECONSTRUCT: Any = np.array([0]).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
#: NumPy's arrays and numbers beside the tensors (an architecture code, a best metric), by their old and new names.
_NUMBERS: list[Any] = [
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.ndarray, np.dtype),
    *(type(np.dtype(code)) for code in "?bhilqBHILQefd"),
]


def file_reader(bundle: Path) -> Callable[..., Any]:
    """Return what stands for `torch.load` in the configuration of `bundle`."""

    def read(file: object, *_: object, **__: object) -> Any:
        return _read(Path(str(file)), bundle)

    return read


def fill(network: torch.nn.Module, file: Path, bundle: Path, within: Iterable[str] = (), *, strict: bool = True) -> str:
    """Load the weights in `file` into `network`; return what is to be told about it, "" when nothing is.

    `within` are the keys under which the bundle's own loader looks for them. Without `strict` the file may hold more
    than the network has; what the network has must be there.

    Raises
    ------
    BundleInvalid
        If they are missing, damaged, code, or of another network.
    """
    state = _state(_read(file, bundle), file, within)
    expected = network.state_dict()
    unnamed = len(expected) == len(state) and not expected.keys() & state.keys()
    absent = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    further = [key for key in state if key not in expected]
    other = [key for key, value in state.items() if key in expected and value.shape != expected[key].shape]
    if other:
        key = other[0]
        shapes = f"{tuple(state[key].shape)}, wanted {tuple(expected[key].shape)}"
        raise BundleInvalid(f"{file.name} is not of this network: {len(other)} shapes differ, first {key}: {shapes}")
    if absent or (further and strict):
        which = f"it lacks {absent[0]}" if absent else f"it has {further[0]}, which the network has not"
        counts = f"{len(absent)} of {len(expected)} are missing, {len(further)} of {len(state)} are not known"
        raise BundleInvalid(
            f"{file.name} is not of this network: {which} ({counts})" + "; all have other names" * unnamed
        )
    network.load_state_dict(state, strict=False)
    return f"{file.name}: {len(further)} tensors that the network has not are left out" if further else ""


def _read(file: Path, bundle: Path) -> Any:
    if not file.resolve().is_relative_to(bundle.resolve()):
        raise BundleInvalid(f"{file} lies outside of the bundle; put it into {bundle.name}/models/")
    if not file.is_file():
        there = sorted(one.name for one in file.parent.glob("*") if one.suffix in (".pt", ".pth", ".ckpt", ".ts"))
        named = f"; there is {', '.join(there)}: name it in dicom.toml, [run] weights" if there else ""
        raise BundleInvalid(f"{file.name} is missing; the weights belong into {file.parent.name}/{named}")
    if _is_torchscript(file):
        raise BundleInvalid(
            f"{file.name} is a TorchScript archive, which is a program; save torch.jit.load(file).state_dict() with "
            "torch.save and put that in its place"
        )
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BundleInvalid(f"{file.name} is not a plain state_dict: {why}") from error


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _state(content: Any, file: Path, within: Iterable[str]) -> dict[str, torch.Tensor]:
    for key in (*within, *_WITHIN):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise BundleInvalid(f"{file.name} is not a state_dict")
    broken = [key for key, value in content.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise BundleInvalid(f"{file.name} has values that are not numbers in {broken[0]}")
    return {str(key).removeprefix("module."): value for key, value in content.items()}
