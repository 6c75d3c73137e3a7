"""Sends every DICOM file of a folder to a destination, without server or database: `imaging-ai send`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import DeliveryRefused, DeliveryUnavailable
from imaging_ai.send.answers import Answer, Verdict
from imaging_ai.send.destinations import Destination
from imaging_ai.send.peer import connect
from imaging_ai.send.scu import MOST_PAIRS
from imaging_ai.send.transfer import transfer

__all__ = ["FolderReport", "send_folder"]

_TAGS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(slots=True)
class FolderReport:
    """What became of a folder: how many files were sent, seen afterwards, were no DICOM, and which failed and why."""

    sent: int = 0
    confirmed: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether there was something to send and all of it went."""
        return self.sent > 0 and not self.failed


def send_folder(
    folder: Path, destination: Destination, progress: Callable[[int, int], None] = lambda done, total: None
) -> FolderReport:
    """Send the DICOM files below `folder` (or the one file it is); `progress` gets how many of how many are done.

    What cannot be sent is in the report, with the reason; one connection is used for as many as it can carry.
    """
    report = FolderReport()
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    instances = []
    for path in files:
        instance = _identify(path)
        if instance is None:
            report.skipped += 1
        else:
            instances.append(instance)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, len(instances))

    for batch in _batches(instances):
        try:
            with connect(destination, batch) as peer:
                answers = transfer(peer, [batch], _read, after_each=advance)
        except (DeliveryRefused, DeliveryUnavailable) as error:
            answers = {instance.sop_instance_uid: Answer(Verdict.PASSING, error.message) for instance in batch}
        for instance in batch:
            _count(report, Path(instance.blob.key), answers[instance.sop_instance_uid])
    return report


def _count(report: FolderReport, path: Path, answer: Answer) -> None:
    if answer.verdict is not Verdict.STORED or answer.seen is False:
        report.failed.append((path, answer.reason or "it says success, but a query does not show it"))
    else:
        report.sent += 1
        report.confirmed += bool(answer.seen)


def _identify(path: Path) -> StoredInstance | None:
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        return StoredInstance(
            sop_instance_uid=str(ds.SOPInstanceUID),
            sop_class_uid=str(ds.SOPClassUID),
            transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
            study_instance_uid=str(ds.StudyInstanceUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            instance_number=None,
            blob=BlobRef(str(path), 0, path.stat().st_size),
        )
    except (InvalidDicomError, AttributeError, ValueError, OSError):
        return None  # a licence text, a DICOMDIR, a damaged file: counted as skipped


def _read(instance: StoredInstance) -> bytes:
    return Path(instance.blob.key).read_bytes()


def _batches(instances: Sequence[StoredInstance]) -> Iterator[list[StoredInstance]]:
    """Cut where the presentation contexts of one association would run out."""
    batch: list[StoredInstance] = []
    pairs: set[tuple[str, str]] = set()
    for instance in instances:
        pair = (instance.sop_class_uid, instance.transfer_syntax_uid)
        if pair not in pairs and len(pairs) == MOST_PAIRS:
            yield batch
            batch, pairs = [], set()
        batch.append(instance)
        pairs.add(pair)
    if batch:
        yield batch
