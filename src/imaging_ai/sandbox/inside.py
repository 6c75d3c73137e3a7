"""What a model's process does for a job: loads the model, runs it, and says what came of it. This imports torch."""

from __future__ import annotations

import logging
import time

from imaging_ai.analysis import Analysis, analyse, refusal
from imaging_ai.catalog import ModelEntry
from imaging_ai.core.finding import Finding
from imaging_ai.encode import Predecessor
from imaging_ai.errors import SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.device import choose_device, gpu_memory
from imaging_ai.infer.fitting import features_of
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.selftest import try_out
from imaging_ai.sandbox.messages import Answer, Checked, Found, Made, Order, Report, Series, Spec

__all__ = ["Inside"]


logger = logging.getLogger(__name__)


class Inside:
    """The model of this process, which stays loaded. Who confines a process has it in there; nothing here verifies."""

    def __init__(self, spec: Spec) -> None:
        self._device = choose_device(spec.device, threads=spec.threads)
        self._allow_scripts = spec.allow_scripts
        self._model: LoadedModel | None = None

    @property
    def device(self) -> str:
        """The type of the device on which it runs."""
        return self._device.type

    def on_gpu(self) -> tuple[int, int, int]:
        """Return the bytes of a GPU that are held, the most since this was asked last, and how many there are."""
        return gpu_memory(self._device)

    def analyse(self, entry: ModelEntry, _digest: str, series: Series, order: Order, report: Report) -> Answer:
        """Run a model on the files of one series, or of one for each of its inputs.

        Raises
        ------
        SeriesRefused, ModelFailed, ModelOutOfMemory, BundleInvalid, ResultInvalid
            If there is no result to be had.
        """
        model = self._loaded(entry)
        series = {name: list(files) for name, files in series.items()}
        try:
            analysis = analyse(
                series,
                model,
                report,
                job_uid=order.job_uid,
                created_at=order.created_at,
                supersedes=[Predecessor(*one) for one in order.supersedes],
                reject_superseded=order.reject_superseded,
                remark=order.remark,
                explained=order.explained,
            )
        except SeriesRefused as why:
            said = refusal(series, entry, why, job_uid=order.job_uid, created_at=order.created_at, remark=order.remark)
            if said is None:
                raise
            analysis = said
        return _answer(analysis)

    def check(self, entry: ModelEntry, *, trial: bool) -> Checked:
        """Load a model, and run it on a phantom where that is wanted.

        Raises
        ------
        BundleInvalid, ModelFailed, ModelOutOfMemory, SeriesRefused
            As the model does.
        """
        began = time.perf_counter()
        model = self._loaded(entry)
        loaded = Checked(str(model.device), model.nbytes, time.perf_counter() - began)
        if not trial:
            return loaded
        shown = try_out(model)
        return Checked(
            loaded.device,
            loaded.model_bytes,
            loaded.load_seconds,
            shown.shape,
            shown.seconds,
            shown.peak_bytes,
            shown.answer,
        )

    def features(self, entry: ModelEntry, series: Series, layer: str) -> tuple[str, tuple[float, ...]]:
        """Return a layer, the deepest when it is not named, and what it answers to a series.

        Raises
        ------
        BundleInvalid, ModelFailed, ModelOutOfMemory, SeriesRefused
            As the model does.
        """
        layer, found = features_of(self._loaded(entry), series, layer)
        return layer, tuple(map(float, found))

    def _loaded(self, entry: ModelEntry) -> LoadedModel:
        if self._model is None or self._model.entry.digest != entry.digest:
            began, self._model = time.perf_counter(), None
            self._model = load_bundle(entry, self._device, allow_scripts=self._allow_scripts)
            size, seconds = self._model.nbytes >> 20, time.perf_counter() - began
            logger.info("loaded model %s digest %s: %d MB in %.1f s", entry.name, entry.digest[:12], size, seconds)
        return self._model


def _answer(analysis: Analysis) -> Answer:
    return Answer(
        findings=tuple(_found(one) for one in analysis.findings),
        objects=tuple(Made.of(one.kind, one.data) for one in analysis.objects),
        provenance=analysis.provenance,
        evaluations=analysis.evaluations,
        refused=analysis.refused,
    )


def _found(one: Finding) -> Found:
    return Found(
        one.segment_number,
        one.description,
        one.found,
        one.tracking_identifier,
        one.tracking_uid,
        one.measurements,
    )
