"""From the end of an association to results that can be seen, through the whole server: `python bench/latency.py`.

Small CT phantoms that say how many instances they have are pushed one after the other to `imaging-ai serve` (SQLite,
embedded queue) with a model that thresholds. For each: milliseconds from the release of the association to the
claim of the job, seconds from there to results in the index, and what of that was reading and inference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from e2e.server import Server
from imaging_ai.core.identity import new_uid
from imaging_ai.core.job import JobState
from phantoms import ball, series, threshold_bundle, to_bytes

SETTINGS = '[[rules]]\nname = "all"\nwhen = { Modality = "CT" }\nrun = ["threshold"]\n'


def push(port: int, slices: int) -> tuple[str, float]:
    """Push one series over an association; return its Study Instance UID and when the release was answered."""
    from io import BytesIO

    from pydicom import dcmread

    datasets = [dcmread(BytesIO(to_bytes(ds))) for ds in series(ball((slices, 64, 64)), name=new_uid())]
    study, image_series = new_uid(), new_uid()
    ae = AE("BENCH")
    ae.add_requested_context(CTImageStorage)
    association = ae.associate("127.0.0.1", port, ae_title="IMAGINGAI")
    assert association.is_established
    for ds in datasets:
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, image_series, new_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.ImagesInAcquisition = slices
        assert association.send_c_store(ds).Status == 0
    released = time.time()
    association.release()
    return study, released


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--slices", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), SETTINGS)
        threshold_bundle(server.models / "threshold")
        server.serve()
        try:
            push(server.dicom_port, options.slices)
            server.wait_jobs(1, timeout=120)  # warm: the model is loaded
            rows = []
            for _ in range(options.series):
                study, released = push(server.dicom_port, options.slices)
                (job,) = server.wait_jobs(1, study)
                assert job.state is JobState.COMPLETED, job.failure
                assert job.started_at is not None and job.finished_at is not None
                seconds = job.provenance["seconds"]
                assert isinstance(seconds, dict)
                rows.append(
                    {
                        "release_to_start_ms": 1000 * (job.started_at - released),
                        "start_to_result_s": job.finished_at - job.started_at,
                        "model_s": seconds["read"] + seconds["infer"],
                    }
                )
        finally:
            server.stop()
    report = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
    report["release_to_start_p95_ms"] = round(float(np.percentile([row["release_to_start_ms"] for row in rows], 95)), 1)
    report["overhead_s"] = round(report["start_to_result_s"] - report["model_s"], 3)
    print(f"{options.series} series of {options.slices} instances")
    for key, value in report.items():
        print(f"  {key:26} {value}")
    print(json.dumps({"latency": report}))


if __name__ == "__main__":
    main()
