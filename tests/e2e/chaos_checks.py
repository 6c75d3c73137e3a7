"""What must hold when the dust has settled. Each check returns sentences about what is wrong; none is well."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable

import pydicom

from e2e.chaos_modality import Pushed
from e2e.chaos_pacs import Pacs
from e2e.server import Server
from imaging_ai.archive import log
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.job import FINAL_STATES, Job, JobState
from services.peers import dataset_bytes

__all__ = ["deliveries", "files", "index", "instances", "jobs", "settled"]

_OPEN = "('WAITING', 'SENDING')"


def settled(server: Server) -> bool:
    """Say whether nothing is left to do: series, jobs, deliveries, documents."""
    left = (
        "SELECT count(*) AS n FROM series WHERE state = 'RECEIVING'",
        "SELECT count(*) AS n FROM job WHERE state NOT IN ('COMPLETED', 'CANCELED')",
        f"SELECT count(*) AS n FROM delivery WHERE state IN {_OPEN}",
        "SELECT count(*) AS n FROM instance i LEFT JOIN instance_document d ON d.instance_id = i.id "
        "WHERE d.instance_id IS NULL",
    )
    return not any(server.rows(query)[0].n for query in left)


def _archive(server: Server) -> Archive:
    return Archive(server.database, FolderStore(server.folder / "data" / "objects"))


def instances(server: Server, pushed: Iterable[Pushed]) -> list[str]:
    """Every acknowledged instance is there, bit-identical, once."""
    archive, wrong = _archive(server), []
    for one in pushed:
        held = {each.sop_instance_uid: each for each in archive.instances(one.series_instance_uid)}
        if missing := one.acknowledged - held.keys():
            wrong.append(f"{len(missing)} acknowledged instances of series {one.series_instance_uid} are gone")
        for uid, each in held.items():
            data = archive.read(each)
            if hashlib.sha256(dataset_bytes(data)).hexdigest() != one.digests.get(uid):
                wrong.append(f"instance {uid} is not what was sent")
    return wrong


def jobs(server: Server, pushed: Iterable[Pushed], *, at_most_attempts: int | None = None) -> list[str]:
    """Each CT series ends with one completed job of its last revision and one set of results; others say why not."""
    of_series: dict[str, list[Job]] = defaultdict(list)
    for job in server.ledger.find(limit=1_000_000):
        of_series[job.series_instance_uids[0]].append(job)
    results: dict[int, Counter[str]] = defaultdict(Counter)
    for row in server.rows("SELECT job_id, kind FROM result"):
        results[row.job_id][row.kind] += 1
    series = {row.series_instance_uid: row for row in server.rows("SELECT * FROM series WHERE origin = 'received'")}
    archive, wrong = _archive(server), []
    for one in pushed:
        where, row, found = one.series_instance_uid, series[one.series_instance_uid], of_series[one.series_instance_uid]
        if (row.state, row.instance_count) != ("SETTLED", len(one.digests)):
            wrong.append(f"series {where} is {row.state} with {row.instance_count} of {len(one.digests)} instances")
        wrong += [f"job {job.id} is still {job.state}" for job in found if job.state not in FINAL_STATES]
        newest = [job for job in found if job.revision == row.revision]
        if len(newest) != 1:
            wrong.append(f"series {where} has {len(newest)} jobs of its last revision {row.revision}")
            continue
        (job,) = newest
        wrong += _sets_of_results(found, results)
        if set(job.inputs) != set(one.digests):
            wrong.append(f"the last job {job.id} of series {where} has {len(job.inputs)} of {len(one.digests)} inputs")
        if one.modality != "CT":
            if (job.state, job.model, results[job.id].total()) != (JobState.CANCELED, "", 0):
                wrong.append(f"job {job.id} ran on a series that no rule takes")
            continue
        if job.state is not JobState.COMPLETED:
            wrong.append(f"the last job {job.id} of series {where} is {job.state}: {job.failure}")
            continue
        if at_most_attempts is not None and job.attempt > at_most_attempts:
            wrong.append(f"job {job.id} took {job.attempt} attempts")
        wrong += _reads_back(archive, job, one)
    return wrong


def _sets_of_results(found: Iterable[Job], results: dict[int, Counter[str]]) -> list[str]:
    """A completed job has one SEG and one SR, any other none."""
    wrong = []
    for job in found:
        expected = Counter({"SEG": 1, "SR": 1}) if job.state is JobState.COMPLETED else Counter()
        if results[job.id] != expected:
            wrong.append(f"job {job.id}, {job.state}, has the results {dict(results[job.id])}")
    return wrong


def _reads_back(archive: Archive, job: Job, one: Pushed) -> list[str]:
    """The results are whole, and the segmentation refers to instances of the series."""
    objects = [pydicom.dcmread(io.BytesIO(archive.read(each))) for each in archive.results(job.id)]
    seg = next(ds for ds in objects if ds.Modality == "SEG")
    (referenced,) = seg.ReferencedSeriesSequence
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    if not seg.pixel_array.any() or not uids <= set(one.digests):
        return [f"the segmentation of job {job.id} is empty or of another series"]
    return []


def deliveries(server: Server, pacs: Pacs) -> list[str]:
    """Each result was delivered and confirmed, and sent again only while nobody had confirmed it."""
    rows = {row.sop_instance_uid: row for row in server.rows("SELECT * FROM delivery")}
    registered = {row.sop_instance_uid for row in server.rows("SELECT sop_instance_uid FROM result")}
    held, wrong = pacs.held(), []
    if registered != rows.keys():
        wrong.append(f"{len(registered ^ rows.keys())} results and deliveries do not match")
    if stray := held.keys() - registered:
        wrong.append(f"{len(stray)} objects were sent that are not registered")
    for uid, row in rows.items():
        stores = held.get(uid, [])
        if row.state != "CONFIRMED" or not stores:
            wrong.append(f"delivery of {uid} is {row.state} ({row.reason}), stored {len(stores)} times")
        elif len({one.digest for one in stores}) > 1:
            wrong.append(f"result {uid} was sent with different contents")
        elif stores[-1].at > row.confirmed_at:
            wrong.append(f"result {uid} was sent again after it was confirmed")
        elif len(stores) > row.attempts:
            wrong.append(f"result {uid} was sent {len(stores)} times in {row.attempts} attempts")
    return wrong


def index(server: Server) -> list[str]:
    """No row stands alone."""
    nothing = {
        "results without an instance": "SELECT count(*) AS n FROM result r LEFT JOIN instance i "
        "ON i.sop_instance_uid = r.sop_instance_uid WHERE i.id IS NULL",
        "instances of result series that no job claims": "SELECT count(*) AS n FROM instance i JOIN series s "
        "ON s.id = i.series_id LEFT JOIN result r ON r.sop_instance_uid = i.sop_instance_uid "
        "WHERE s.origin = 'result' AND r.id IS NULL",
        "series without instances": "SELECT count(*) AS n FROM series s LEFT JOIN instance i ON i.series_id = s.id "
        "WHERE i.id IS NULL",
        "series that count wrongly": "SELECT count(*) AS n FROM series s WHERE s.instance_count <> "
        "(SELECT count(*) FROM instance i WHERE i.series_id = s.id)",
        "studies without series": "SELECT count(*) AS n FROM study t LEFT JOIN series s ON s.study_id = t.id "
        "WHERE s.id IS NULL",
        "documents without an instance": "SELECT count(*) AS n FROM instance_document d LEFT JOIN instance i "
        "ON i.id = d.instance_id WHERE i.id IS NULL",
        "findings of jobs that did not complete": "SELECT count(*) AS n FROM finding f JOIN job j ON j.id = f.job_id "
        "WHERE j.state <> 'COMPLETED'",
        "results of jobs that did not complete": "SELECT count(*) AS n FROM result r JOIN job j ON j.id = r.job_id "
        "WHERE j.state <> 'COMPLETED'",
        "leases of jobs that ended": "SELECT count(*) AS n FROM job WHERE lease_owner <> ''",
        "instances put aside": "SELECT count(*) AS n FROM replaced_instance",
    }
    counts = {what: server.rows(query)[0].n for what, query in nothing.items()}
    return [f"{count} {what}" for what, count in counts.items() if count]


def files(server: Server) -> list[str]:
    """Every object is named by a row, every row by an object, and dead processes left nothing.

    Ask when all roles have stopped and one of them has recovered what they left.
    """
    root = server.folder / "data" / "objects"
    rows = server.rows("SELECT blob_key, blob_offset, blob_length FROM instance")
    named = {BlobRef(row.blob_key, row.blob_offset, row.blob_length) for row in rows}
    wrong = []
    if len(named) != len(rows):
        wrong.append(f"{len(rows) - len(named)} objects are named by two rows")
    found: set[BlobRef] = set()
    for path in (root / "logs").rglob("*.log"):
        key = str(path.relative_to(root))
        records = list(log.records(path, verify=True))
        found |= {BlobRef(key, one.offset, one.length) for one in records if one.whole}
        if not all(one.whole for one in records):
            wrong.append(f"{key} has records that are not whole")
        if not records:
            wrong.append(f"{key} holds nothing")
    for path in (root / "objects").rglob("*.*"):
        found.add(BlobRef(str(path.relative_to(root)), 0, path.stat().st_size))
    if orphans := found - named:
        wrong.append(f"{len(orphans)} objects that no row names, e.g. {sorted(one.key for one in orphans)[:3]}")
    if missing := named - found:
        wrong.append(f"{len(missing)} rows name objects that are not there")
    left = [str(path.relative_to(root)) for path in (root / "owners").rglob("*")]
    if left:
        wrong.append(f"dead processes left {left[:5]}")
    if locks := list((server.folder / "data" / "run" / "workers").glob("*")):
        wrong.append(f"{len(locks)} locks of dead workers")
    return wrong
