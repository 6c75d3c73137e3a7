"""The process that runs jobs: it makes its pipeline once, stays warm, and dies with the worker that started it.

It may read the archive and write the ledger; models run in a process of its own that may not (`sandbox/`).

Started as ``python -m imaging_ai.worker.runner DESCRIPTOR [DESCRIPTOR]``. It leaves signals to its worker, which kills
it when a job must stop: nothing that it does needs cleaning up (design promise 3).
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from multiprocessing.connection import Connection

from imaging_ai.core.job import Stage
from imaging_ai.logs import where
from imaging_ai.process import die_with_parent, keep_metrics
from imaging_ai.worker.failures import failure_of
from imaging_ai.worker.messages import Ended, Pipeline, PipelineSpec, Progress, Ready, Start, Task

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(descriptor: int, *zygote: int) -> None:
    """Serve the worker at the other end of a socket until it goes away; the way to its zygote may come with it."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    for one in (descriptor, *zygote):
        os.set_inheritable(one, False)
    keep_metrics()  # its worker counts
    worker: Connection[object, object] = Connection(descriptor)
    start = worker.recv()
    assert isinstance(start, Start)
    die_with_parent(start.parent)
    sys.path[:] = start.path
    try:
        pipeline = _make(worker.recv(), *zygote)
    except Exception as error:  # noqa: BLE001 - the edge of the process: the worker must learn of it
        logger.error("the pipeline could not be made: %s", where(error))
        worker.send(Ready(failure_of(error, Stage.QUEUE)))
        return
    worker.send(Ready(None))
    try:
        while isinstance(task := worker.recv(), Task):
            worker.send(_run(pipeline, task, worker))
    except EOFError:
        return  # the worker is gone


def _make(spec: object, *zygote: int) -> Pipeline:
    assert isinstance(spec, PipelineSpec)
    module, _, function = spec.factory.partition(":")
    pipeline: Pipeline = getattr(importlib.import_module(module), function)(spec.argument, *zygote)
    return pipeline


def _run(pipeline: Pipeline, task: Task, worker: Connection[object, object]) -> Ended:
    latest = Progress(0, Stage.QUEUE)

    def report(percent: int, stage: Stage) -> None:
        nonlocal latest
        if (progress := Progress(int(percent), stage)) != latest:
            worker.send(progress)
            latest = progress

    try:
        return Ended(None, pipeline.run(task.job_id, task.attempt, report))
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, it ends this attempt only
        failure = failure_of(error, latest.stage)
        if failure.code == "internal-error":
            logger.error("job %d failed: %s", task.job_id, where(error))
        return Ended(failure)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
