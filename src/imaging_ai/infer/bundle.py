"""MONAI bundles, run from memory: a volume goes in, labels on the same grid come out.

The inference configuration is built as it stands (`settings.py` says what is adapted, `expressions.py` what is
refused); images are handed over as tensors with their affine, and nothing is written to disk.
"""

from __future__ import annotations

import copy
import pickle
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle.config_item import ComponentLocator
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SliceInferer
from monai.utils.module import OptionalImportError
from numpy.typing import NDArray

from imaging_ai.catalog import ModelEntry
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, ImagingAiError, ModelFailed, ModelOutOfMemory
from imaging_ai.infer.expressions import GLOBALS, Allowed
from imaging_ai.infer.limits import check_limits
from imaging_ai.infer.postprocessing import Answer, Postprocessing
from imaging_ai.infer.settings import InferenceConfig, read_config
from imaging_ai.infer.tensors import Prediction, image_tensor, plane_tensor, resampled_onto
from imaging_ai.infer.windows import Windows, is_out_of_memory

__all__ = ["Answer", "LoadedModel", "Prediction", "load_bundle"]

_CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")


class LoadedModel:
    """A bundle that is ready to run. Not safe for two threads at once."""

    def __init__(self, entry: ModelEntry, device: torch.device, config: InferenceConfig, parser: ConfigParser) -> None:
        self.entry = entry
        self.device = device
        self.notes = config.notes
        self._image_keys = config.image_keys
        self._before = parser.get_parsed_content("preprocessing")
        self._after = Postprocessing(parser.get_parsed_content("postprocessing"), entry.segment_values)
        self.network: torch.nn.Module = _network(parser, Path(parser.get_parsed_content("weights")), entry, device)
        self.peak_bytes = 0
        inferer = parser.get_parsed_content("inferer")
        self._windows = Windows(inferer, entry.run.window_batch)
        self._planar = _is_planar(self.network) and not isinstance(inferer, SliceInferer)

    @property
    def nbytes(self) -> int:
        """Memory of the parameters and buffers."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def predict(
        self, volumes: Volume | Mapping[str, Volume], progress: Callable[[float], None] = lambda _: None
    ) -> Prediction:
        """Run the model and return its labels; as `answer`."""
        return self.answer(volumes, progress).labels

    def answer(
        self,
        volumes: Volume | Mapping[str, Volume],
        progress: Callable[[float], None] = lambda _: None,
        *,
        probability: bool = False,
    ) -> Answer:
        """Run the model; `progress` is told the part that is done, from 0 to 1.

        Returns
        -------
        A label map ``(slices, rows, columns)`` of the first volume's grid, or, where channels overlap, booleans
        ``(channels, slices, rows, columns)``; with `probability`, also that of any segment.

        Raises
        ------
        SeriesRefused
            If a volume lies outside of the limits of the model.
        ModelFailed
            If the network raises, or answers nonsense: no numbers, or another grid.
        ModelOutOfMemory
            If memory ran out, with single windows too.
        """
        named = self._named(volumes)
        for volume in named.values():
            check_limits(volume, self.entry)
        try:
            with torch.inference_mode(), self._precision(), self._measured():
                return self._predict(named, progress, probability)
        except ImagingAiError:  # ours, or raised by `progress` to stop the run
            raise
        except Exception as error:  # the edge to the model: transforms and layers may raise anything
            if is_out_of_memory(error):
                raise ModelOutOfMemory(f"{self.entry.name} ran out of memory on {self.device}") from error
            if isinstance(cause := _cause(error), ImportError | OptionalImportError):
                raise BundleInvalid(f"{self.entry.name} needs a package: {_line(cause)}") from error
            raise ModelFailed(f"{self.entry.name} failed: {_line(cause)}") from error

    def _named(self, volumes: Volume | Mapping[str, Volume]) -> dict[str, Volume]:
        if isinstance(volumes, Volume):
            volumes = {next(iter(self.entry.inputs), "image"): volumes}
        wanted = tuple(self.entry.inputs) or tuple(volumes)
        absent = [name for name in wanted if name not in volumes]
        if absent:
            raise ModelFailed(f"{self.entry.name} needs the series {', '.join(absent)}")
        return {name: volumes[name] for name in wanted}

    def _predict(self, named: dict[str, Volume], progress: Callable[[float], None], probability: bool) -> Answer:
        torch.manual_seed(0)
        images = [image_tensor(volume) for volume in named.values()]
        source = images[0]
        images = [source, *(resampled_onto(image, source) for image in images[1:])]
        if not self._planar:
            return self._run(self._keyed(images), source, progress, probability)
        return self._by_slices(images, progress, probability)

    def _by_slices(self, images: list[MetaTensor], progress: Callable[[float], None], probability: bool) -> Answer:
        """Run a network of two dimensions on each slice."""
        planes: list[Answer] = []
        count = images[0].shape[2]
        for k in range(count):
            flat = [plane_tensor(image, k) for image in images]
            start = k / count

            def part_of_all(part: float, start: float = start) -> None:
                progress(start + part / count)

            planes.append(self._run(self._keyed(flat), flat[0], part_of_all, probability))
        chances = [plane.probability for plane in planes if plane.probability is not None]
        labels: NDArray[Any] = np.stack([plane.labels for plane in planes], axis=-3)
        return Answer(labels, np.stack(chances) if probability else None)

    def _keyed(self, images: list[MetaTensor]) -> dict[str, MetaTensor]:
        """Give the images the names that the bundle loads them by; one name for several means channels."""
        if len(images) == len(self._image_keys):
            return dict(zip(self._image_keys, images, strict=True))
        if len(self._image_keys) == 1:
            channels = MetaTensor(torch.stack([image.as_tensor() for image in images]), meta=images[0].meta)
            channels.meta["original_channel_dim"] = 0
            return {self._image_keys[0]: channels}
        raise ModelFailed(f"{self.entry.name} loads {len(self._image_keys)} images, and {len(images)} were given")

    def _run(
        self, data: dict[str, Any], source: MetaTensor, progress: Callable[[float], None], probability: bool
    ) -> Answer:
        data = self._before(data)
        image = data.get("image", data.get(self._image_keys[0])) if isinstance(data, dict) else None
        if not isinstance(image, torch.Tensor):
            raise ModelFailed(f"{self.entry.name}: the preprocessing leaves no image for the network")
        progress(0.1)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        inputs = plain[None].to(self.device, torch.float32)
        if self.entry.run.channels_last and inputs.ndim == 5:
            inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        answer = self._windows(inputs, self.network, lambda part: progress(0.1 + 0.7 * part))[0].float()
        self._check(answer, inputs)
        meta = image.meta if isinstance(image, MetaTensor) else source.meta
        data["pred"] = MetaTensor(answer, meta=copy.deepcopy(meta), applied_operations=[])
        found = self._after(data, source, probability=probability)
        progress(1.0)
        return found

    def _check(self, answer: torch.Tensor, inputs: torch.Tensor) -> None:
        if not bool(torch.isfinite(answer).all()):
            raise ModelFailed(f"{self.entry.name} answered values that are not numbers")
        if answer.ndim < 3:
            raise ModelFailed(f"{self.entry.name} answers no image; models that classify are not supported yet")
        if answer.shape[1:] != inputs.shape[2:]:
            raise ModelFailed(
                f"{self.entry.name} answered the shape {tuple(answer.shape[1:])} to {tuple(inputs.shape[2:])}: "
                "an answer must lie on the grid of what the network was given"
            )
        largest = max(self.entry.segment_values, default=0)
        if 1 < len(answer) <= largest:
            raise ModelFailed(f"{self.entry.name} answered {len(answer)} channels, but its segments need {largest + 1}")

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Keep the largest memory that a run was seen to need beyond the model itself."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        before = _memory(self.device)
        try:
            yield
        finally:
            self.peak_bytes = max(self.peak_bytes, _memory(self.device) - before)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        if self.entry.run.precision == "bfloat16":
            with torch.autocast(self.device.type, torch.bfloat16):
                yield
        else:
            yield


def load_bundle(entry: ModelEntry, device: torch.device | str = "cpu", *, allow_scripts: bool = False) -> LoadedModel:
    """Build the network, transforms and inferer of a model, and load its weights.

    `allow_scripts` lets the bundle's own Python code run; only for bundles that somebody has read.

    Raises
    ------
    BundleInvalid
        If something is missing, damaged, unknown, or forbidden; the message names it.
    """
    device = torch.device(device)
    path = entry.path.resolve()
    wanted = (entry.run.config,) if entry.run.config else _CONFIGS
    file = next((path / name for name in wanted if (path / name).is_file()), path / wanted[0])
    if not file.resolve().is_relative_to(path):
        raise BundleInvalid(f"{entry.name}: {entry.run.config} is outside of the bundle")
    with _importable(path, allow_scripts):
        locator = ComponentLocator()
        config = read_config(
            file, path, str(device), Allowed(locator, scripts=allow_scripts), labels_first=entry.run.labels_first
        )
        if entry.run.weights:
            config.content["weights"] = str(path / entry.run.weights)
        parser = ConfigParser(config.content, globals=GLOBALS)
        parser.locator = locator
        try:
            return LoadedModel(entry, device, config, parser)
        except ImagingAiError:
            raise
        except Exception as error:  # the edge to the bundle: what it builds may raise anything
            if is_out_of_memory(error):
                raise ModelOutOfMemory(f"{entry.name} does not fit on {device}") from error
            raise BundleInvalid(f"{entry.name} cannot be built: {_line(_cause(error))}") from error


def _cause(error: BaseException) -> BaseException:
    """Return what went wrong first: MONAI wraps the errors of transforms in its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(error: BaseException) -> str:
    """Say an error in one line; images and affines are all that a bundle was given, so no patient data is in it."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _memory(device: torch.device) -> int:
    """Return the most memory that was in use so far, on the GPU or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _network(parser: ConfigParser, weights: Path, entry: ModelEntry, device: torch.device) -> torch.nn.Module:
    network = parser.get_parsed_content("network_def")
    if not isinstance(network, torch.nn.Module):
        raise BundleInvalid(f"{entry.name}: network_def is not a network")
    if not weights.resolve().is_relative_to(entry.path.resolve()):
        raise BundleInvalid(f"{entry.name}: its weights lie outside of the bundle")
    state = _state(weights, entry)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BundleInvalid(f"{entry.name}: {weights.name} is not of this network: {str(error)[:400]}") from error
    network.requires_grad_(False)
    network.to(device).eval()
    if entry.run.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def _is_planar(network: torch.nn.Module) -> bool:
    """Say whether a network reads flat images."""
    kinds = {type(layer) for layer in network.modules()}
    return torch.nn.Conv2d in kinds and torch.nn.Conv3d not in kinds


def _state(weights: Path, entry: ModelEntry) -> dict[str, torch.Tensor]:
    """Read a state_dict, alone or in a checkpoint; nothing in the file is executed."""
    name = f"{entry.name}: {weights.name}"
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BundleInvalid(f"{name} is missing; the weights belong into {weights.parent.name}/") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BundleInvalid(f"{name} is not a plain state_dict: {str(error).splitlines()[0][:200]}") from error
    for key in ("model", "state_dict", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleInvalid(f"{name} is not a state_dict")
    broken = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise BundleInvalid(f"{name} has values that are not numbers in {broken[0]}")
    return {key.removeprefix("module."): value for key, value in state.items()}


@contextmanager
def _importable(path: Path, allowed: bool) -> Iterator[None]:
    """Make the bundle's own `scripts` importable while it is built; each bundle has a package of that name."""
    if not allowed:
        yield
        return
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name in [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]:
            del sys.modules[name]
