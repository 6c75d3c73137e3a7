"""A series that a model does not read: the job ends with the reason, and where its author wants that, with a report."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

import phantoms
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.folder import FolderStore
from imaging_ai.catalog import Catalog
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import Job, JobState
from imaging_ai.errors import ResultInvalid, SeriesRefused
from imaging_ai.pipeline import Pipeline
from imaging_ai.queue.ledger import Ledger
from imaging_ai.queue.workitem_news import reason_codes
from imaging_ai.sandbox.inside import Inside
from imaging_ai.sandbox.messages import Answer, Made, Spec
from imaging_ai.send.deliveries import Deliveries
from ledgers import claim, open_database, schedule, sqlite_url
from shelf import keep

REPORTING = "\n[outputs]\nreport_refusals = true\n"


class House:
    """An archive with a short series in it, a model that wants more slices, and a job on the two."""

    def __init__(self, folder: Path, more_toml: str) -> None:
        self.database = open_database(sqlite_url(folder))
        self.ledger = Ledger(self.database)
        self.archive = Archive(self.database, FolderStore(folder / "store", min_free_bytes=0))
        bundle = phantoms.threshold_bundle(folder / "models" / "threshold")
        (bundle / "dicom.toml").write_text((bundle / "dicom.toml").read_text() + more_toml)
        catalog = self.catalog = Catalog([folder / "models"])
        series = phantoms.series(phantoms.corner((3, 16, 16)))
        for ds in series:
            keep(self.archive, phantoms.to_bytes(ds))
        schedule(
            self.ledger,
            study_instance_uid=str(series[0].StudyInstanceUID),
            series_instance_uids=(str(series[0].SeriesInstanceUID),),
            inputs=tuple(str(ds.SOPInstanceUID) for ds in series),
            model="threshold",
            model_digest=catalog.get("threshold").digest,
            destinations=("pacs",),
        )
        self.deliveries = Deliveries(self.database)
        inside = Inside(Spec(device="cpu", threads=1))
        self.pipeline = Pipeline(self.database, self.archive, self.ledger, self.deliveries, catalog, inside)

    def run(self) -> Job:
        job = claim(self.ledger)
        self.pipeline.run(job.id, job.attempt, lambda _percent, _stage: None)
        return self.ledger.get(job.id)


@pytest.fixture
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    made = House(tmp_path, request.param)
    yield made
    made.archive.close()
    made.database.dispose()


@pytest.mark.parametrize("house", [REPORTING], indirect=True)
def test_the_job_is_canceled_with_the_reason_and_its_report_is_kept_and_sent(house: House) -> None:
    job = house.run()
    assert job.state is JobState.CANCELED and job.failure is not None
    assert (job.failure.code, job.failure.permanent) == ("too-few-slices", True)
    (code,) = reason_codes(job.failure.code, job.failure.stage)
    assert code["00080104"]["Value"] == ["Object Types not supported"], "the series, not the machine"
    (kept,) = house.archive.results(job.id)
    report = dcmread(io.BytesIO(house.archive.read(kept)))
    assert report.Modality == "SR" and report.SeriesDescription.endswith("not assessed")
    (delivery,) = house.deliveries.find(job_id=job.id)
    assert (delivery.destination, delivery.sop_instance_uid) == ("pacs", str(report.SOPInstanceUID))


@pytest.mark.parametrize("house", [""], indirect=True)
def test_without_the_wish_there_is_no_report(house: House) -> None:
    with pytest.raises(SeriesRefused, match="3 slices, at least 4 are needed"):
        house.run()


class Liar:
    """A model's process that was taken over: it answers with an object of its choice."""

    def __init__(self, ds: Dataset) -> None:
        self._data = phantoms.to_bytes(ds)

    def analyse(self, *_: object) -> Answer:
        return Answer((), (Made.of("SC", self._data),), {})


@pytest.mark.parametrize("house", [""], indirect=True)
@pytest.mark.parametrize(
    ("changed", "of_another"),
    [({"StudyInstanceUID": "2.25.7"}, "study"), ({"PatientID": "SOMEBODY"}, "patient"), ({}, "")],
)
def test_an_object_of_another_study_or_patient_is_not_registered(
    house: House, changed: dict[str, str], of_another: str
) -> None:
    (ds,) = phantoms.series(phantoms.corner((1, 16, 16)))
    job = claim(house.ledger)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = job.study_instance_uid, new_uid(), new_uid()
    ds.update(changed)
    pipeline = Pipeline(house.database, house.archive, house.ledger, house.deliveries, house.catalog, Liar(ds))
    run = lambda: pipeline.run(job.id, job.attempt, lambda _percent, _stage: None)  # noqa: E731
    if of_another:
        with pytest.raises(ResultInvalid, match=f"an object of another {of_another}"):
            run()
    else:
        run()
    assert len(house.archive.results(job.id)) == (not of_another)
