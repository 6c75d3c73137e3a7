"""A bundle that is ready to run: a volume goes in, labels on the same grid come out.

Images are handed over as tensors with their affine, and nothing is written to disk.
"""

from __future__ import annotations

import copy
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer, SliceInferer
from monai.utils.module import OptionalImportError
from numpy.typing import NDArray

from imaging_ai.catalog import ModelEntry
from imaging_ai.core.volume import Volume
from imaging_ai.errors import BundleInvalid, ImagingAiError, ModelFailed, ModelOutOfMemory, SeriesRefused
from imaging_ai.infer.engine import make_ready
from imaging_ai.infer.ensemble import members_of
from imaging_ai.infer.familiar import familiar_of, listening
from imaging_ai.infer.limits import check_limits
from imaging_ai.infer.memory import is_out_of_memory
from imaging_ai.infer.postprocessing import Answer, Postprocessing
from imaging_ai.infer.resample import resampling_by_axes
from imaging_ai.infer.retinanet import Retina
from imaging_ai.infer.settings import InferenceConfig
from imaging_ai.infer.tensors import Prediction, image_tensor, plane_tensor, resampled_onto, values_on
from imaging_ai.infer.together import check_together
from imaging_ai.infer.windows import Windows

__all__ = ["Answer", "LoadedModel", "Parts", "Prediction", "Prepared", "first_cause", "in_a_line"]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a bundle's configuration builds; the network has its weights and is on its device.

    `retina` is of a network that answers boxes.
    """

    network: torch.nn.Module
    preprocessing: Callable[[Any], Any]
    inferer: Inferer
    postprocessing: Callable[[Any], Any]
    retina: Retina | None = None


@dataclass(slots=True, eq=False)
class Prepared:
    """What the network is given, and the way back.

    `inputs` is float32 ``[1, channel, x, y(, z)]`` on the device, `image` the same ``[channel, x, y(, z)]`` with its
    affine, `source` the image as it was loaded, `data` the bundle's dictionary after its preprocessing.
    """

    inputs: torch.Tensor
    image: MetaTensor
    source: MetaTensor
    data: dict[str, Any]


class LoadedModel:
    """A bundle that is ready to run. Not safe for two threads at once.

    `how` tells how the last run went, where that was not as usual, `together` how its inputs lie: a sentence each.
    """

    def __init__(self, entry: ModelEntry, device: torch.device, config: InferenceConfig, parts: Parts) -> None:
        self.entry = entry
        self.device = device
        self.notes = config.notes
        self._image_keys = config.image_keys
        self._before = parts.preprocessing
        self._after = Postprocessing(parts.postprocessing, entry.segment_values)
        self.network = parts.network
        self.retina = parts.retina
        self._channels = 0
        self.peak_bytes = 0
        self.how: tuple[str, ...] = ()
        self.together: tuple[str, ...] = ()
        self.unlike: float | None = None
        self._familiar = familiar_of(entry)
        self._windows = Windows(
            parts.inferer, entry.run.window_batch, entry.run.precision, overlapping=self._after.overlapping
        )
        make_ready(self.network, channels_last=entry.run.channels_last)
        resampling_by_axes(parts.preprocessing, device)
        self.window: Sequence[int] | None = getattr(parts.inferer, "roi_size", None)
        self.reads_planes = _is_planar(self.network)  # each slice by itself, whoever cuts the volume up
        self.planar = self.reads_planes and not isinstance(parts.inferer, SliceInferer)
        #: Across which axis of the image its inferer cuts the slices, where that does it.
        self.slice_axis: int | None = parts.inferer.spatial_dim if isinstance(parts.inferer, SliceInferer) else None

    @property
    def steps_after(self) -> Sequence[Any]:
        """The transforms of the bundle that follow its network."""
        return self._after.transforms

    def channel_of(self, label: int) -> int:
        """Return which channel of what the network answered last stands for a label.

        Raises
        ------
        ModelFailed
            If that is not known, or it has not answered.
        """
        if not self._channels:
            raise ModelFailed(f"{self.entry.name} has not answered yet")
        return self._after.channels_of([label], self._channels)[0]

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
        named = self._accepted(volumes)
        with self.running():
            return self._predict(named, progress, probability)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Set up what a run of the network needs, and turn what goes wrong in it into one of our errors."""
        try:
            with torch.inference_mode(), self._precision(), self._measured(), self._judged():
                yield
        except ImagingAiError:  # ours, or raised by `progress` to stop the run
            raise
        except Exception as error:  # the edge to the model: transforms and layers may raise anything
            if is_out_of_memory(error):
                raise ModelOutOfMemory(f"{self.entry.name} ran out of memory on {self.device}") from error
            if isinstance(cause := first_cause(error), ImportError | OptionalImportError):
                raise BundleInvalid(f"{self.entry.name} needs a package: {in_a_line(cause)}") from error
            raise ModelFailed(f"{self.entry.name} failed: {in_a_line(cause)}") from error

    def preparations(self, volumes: Volume | Mapping[str, Volume]) -> Iterator[Prepared]:
        """Yield what the network is given for these volumes: once, or of a planar network for each slice in order.

        Raises
        ------
        SeriesRefused
            If a volume lies outside of the limits of the model.
        """
        images = self._images(self._accepted(volumes))
        if not self.planar:
            yield self._prepared(images)
            return
        for k in range(images[0].shape[2]):
            yield self._prepared([plane_tensor(image, k) for image in images])

    def _accepted(self, volumes: Volume | Mapping[str, Volume]) -> dict[str, Volume]:
        named = self._named(volumes)
        self.together = check_together(named)
        for volume in named.values():
            if not volume.located and (self.entry.segments or not self.planar):
                raise SeriesRefused(
                    "no-geometry",
                    f"{self.entry.name} does not read this series: its images have no place in the patient, and a "
                    "result could not be laid onto them; only classifiers and detectors of single images read such",
                )
            if volume.grid.slices == 1 and not self.reads_planes:
                raise SeriesRefused(
                    "too-few-slices", f"{self.entry.name} does not read this series: one slice is no volume"
                )
            check_limits(volume, self.entry)
        return named

    def _named(self, volumes: Volume | Mapping[str, Volume]) -> dict[str, Volume]:
        if isinstance(volumes, Volume):
            volumes = {next(iter(self.entry.inputs), "image"): volumes}
        wanted = tuple(self.entry.inputs) or tuple(volumes)
        absent = [name for name in wanted if name not in volumes]
        if absent:
            raise ModelFailed(f"{self.entry.name} needs the series {', '.join(absent)}")
        return {name: volumes[name] for name in wanted}

    def prepare(self, volumes: Volume | Mapping[str, Volume], plane: int | None = None) -> Prepared:
        """Return what the network is given for these volumes; of a planar network, for slice `plane`."""
        images = self._images(self._named(volumes))
        if plane is not None:
            images = [plane_tensor(image, plane) for image in images]
        return self._prepared(images)

    def to_source(self, values: torch.Tensor, prepared: Prepared) -> NDArray[np.float32]:
        """Interpolate ``[channel, x, y(, z)]`` of the network's grid on the source, ``[channel, slice, row, column]``.

        A flat image has no axis of slices.
        """
        there = MetaTensor(values, meta=copy.deepcopy(prepared.image.meta), applied_operations=[])
        return values_on(there, prepared.source)

    def _images(self, named: dict[str, Volume]) -> list[MetaTensor]:
        first, *others = (image_tensor(volume) for volume in named.values())
        return [first, *(resampled_onto(image, first) for image in others)]

    def _prepared(self, images: list[MetaTensor]) -> Prepared:
        keyed = self._keyed(images)
        headers = {f"{key}_meta_dict": dict(image.meta) for key, image in keyed.items()}  # as readers gave them once
        data = self._before({**keyed, **headers})
        image = data.get("image", data.get(self._image_keys[0])) if isinstance(data, dict) else None
        if not isinstance(image, torch.Tensor):
            raise ModelFailed(f"{self.entry.name}: the preprocessing leaves no image for the network")
        if not isinstance(image, MetaTensor) or "original_affine" not in image.meta:
            image = self._relocated(torch.as_tensor(image), data, images[0])
        inputs = image.as_tensor()[None].to(self.device, torch.float32)
        if self.entry.run.channels_last and inputs.ndim == 5:
            inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        return Prepared(inputs, image, images[0], data)

    def _relocated(self, image: torch.Tensor, data: Mapping[str, Any], source: MetaTensor) -> MetaTensor:
        """Give an image that was put together without its geometry that of what it was put together from."""
        parts = [data[key] for key in self._image_keys if isinstance(data.get(key), MetaTensor)]
        like = next((part for part in parts if part.shape[1:] == image.shape[1:]), source)
        return MetaTensor(image, meta=copy.deepcopy(like.meta), applied_operations=[])

    def _predict(self, named: dict[str, Volume], progress: Callable[[float], None], probability: bool) -> Answer:
        torch.manual_seed(0)
        self.how = ()
        images = self._images(named)
        if not self.planar:
            return self._run(images, progress, probability)
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

            planes.append(self._run(flat, part_of_all, probability))
        chances = [plane.probability for plane in planes if plane.probability is not None]
        labels: NDArray[Any] = np.stack([plane.labels for plane in planes], axis=-3)
        return Answer(labels, np.stack(chances) if probability else None)

    def _keyed(self, images: list[MetaTensor]) -> dict[str, MetaTensor]:
        """Give the images the names that the bundle loads them by; one name for several means channels."""
        if len(images) == len(self._image_keys):
            named = set(self.entry.inputs) == set(self._image_keys)
            return dict(zip(self.entry.inputs if named else self._image_keys, images, strict=True))
        if len(self._image_keys) == 1:
            channels = MetaTensor(torch.stack([image.as_tensor() for image in images]), meta=images[0].meta)
            channels.meta["original_channel_dim"] = 0
            return {self._image_keys[0]: channels}
        raise ModelFailed(
            f"{self.entry.name} loads {len(self._image_keys)} images ({', '.join(self._image_keys)}), "
            f"and {len(images)} were given: say in dicom.toml, [inputs], which series each of them is"
        )

    def _run(self, images: list[MetaTensor], progress: Callable[[float], None], probability: bool) -> Answer:
        prepared = self._prepared(images)
        progress(0.1)
        members = members_of(self.network)
        for index, (key, network) in enumerate(members):

            def part_of_all(part: float, done: int = index) -> None:
                progress(0.1 + 0.7 * (done + part) / len(members))

            answer = self._windows(prepared.inputs, network, part_of_all)[0].float()
            self.how = tuple(dict.fromkeys((*self.how, *self._windows.notes)))
            self._check(answer, prepared.inputs)
            self._channels = len(answer)
            meta = copy.deepcopy(prepared.image.meta)
            prepared.data[key] = MetaTensor(answer, meta=meta, applied_operations=[])
        found = self._after(prepared.data, prepared.source, probability=probability)
        progress(1.0)
        return found

    def _check(self, answer: torch.Tensor, inputs: torch.Tensor) -> None:
        if not all(bool(end.isfinite()) for end in answer.aminmax()):
            raise ModelFailed(f"{self.entry.name} answered values that are not numbers")
        if answer.ndim < 3:
            raise ModelFailed(f"{self.entry.name} answers no image: name its numbers by [[classes]] of dicom.toml")
        if answer.shape[1:] != inputs.shape[2:]:
            raise ModelFailed(
                f"{self.entry.name} answered the shape {tuple(answer.shape[1:])} to {tuple(inputs.shape[2:])}: "
                "an answer must lie on the grid of what the network was given"
            )
        largest = max(self.entry.segment_values, default=0)
        relabels = any(type(step).__name__.startswith(("Lambda", "MapLabel")) for step in self.steps_after)
        if 1 < len(answer) <= largest and not relabels:
            raise ModelFailed(f"{self.entry.name} answered {len(answer)} channels, but its segments need {largest + 1}")

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Score how unlike what the model knows its input is; `unlike` keeps the score of the last run."""
        self.unlike = None
        if self._familiar is None:
            yield
            return
        with listening(self.network, self._familiar.layer) as heard:
            yield
        if (features := heard.features) is not None:
            self.unlike = self._familiar.score(features)
            most = self.entry.familiarity.refuse_above
            if most is not None and self.unlike > most:
                raise SeriesRefused(
                    "out-of-distribution",
                    f"{self.entry.name} does not know such a series: its features lie {self.unlike:.1f} times as far "
                    f"as usual, at most {most:g} times is read",
                )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against the answer of the last run, a sentence each."""
        if self.unlike is None or self.unlike <= self.entry.familiarity.note_above:
            return ()
        return (f"the series is unlike those that the model was fitted on: its score is {self.unlike:.2f}, usual is 1",)

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


def first_cause(error: BaseException) -> BaseException:
    """Return what went wrong first: MONAI wraps the errors of transforms in its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def in_a_line(error: BaseException) -> str:
    """Say an error in one line; images and affines are all that a bundle was given, so no patient data is in it."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _memory(device: torch.device) -> int:
    """Return the most memory that was in use so far, on the GPU or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _is_planar(network: torch.nn.Module) -> bool:
    """Say whether a network reads flat images."""
    kinds = {type(layer) for layer in network.modules()}
    return torch.nn.Conv2d in kinds and torch.nn.Conv3d not in kinds
