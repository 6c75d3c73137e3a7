"""How long a SEG takes, against highdicom's own writer: `python bench/encode.py [--segments 10] [--slices 300]`.

Each writer runs in a process of its own (the best of three), warm, on the same phantom: an ellipsoid per segment in a
CT of 512 x 512. The memory is the peak of the process less what it held before the writer began. What both wrote is
then compared, as highdicom reads it. The ratio is one of processor time: other work on the machine spoils the clock.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from scipy import ndimage

from imaging_ai.core.finding import Algorithm, Code, Finding, SegmentDescription
from imaging_ai.core.geometry import Grid, SourceFrame
from imaging_ai.core.identity import derive_uid
from imaging_ai.core.region import Region
from imaging_ai.core.volume import Volume
from imaging_ai.encode import check, encode_results

ORGAN = SegmentDescription("Organ", Code("123037004", "SCT", "Anatomical structure"), Code("113343008", "SCT", "Organ"))
MODEL = Algorithm("bench", "1", "imaging-ai", Code("123109", "DCM", "Artificial Intelligence"), "0" * 64, "2.25.1")


def phantom(size: int, slices: int) -> Volume:
    """Make the headers of a CT, without voxels: the encoder does not look at them."""
    study, series, frame_of_reference = (derive_uid("bench", what) for what in ("study", "series", "frame"))
    headers = []
    for k in range(slices):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, derive_uid("bench", str(k))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_of_reference
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Bench", "BENCH", "", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240101", "120000", "1", "A1"
        ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "", ""
        ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "CT", "bench", 1, k + 1
        ds.Rows = ds.Columns = size
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-180, -180, 2 * k]
        ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 2
        headers.append(ds)
    affine = np.diag([0.7, 0.7, 2.0, 1.0])
    affine[:2, 3] = -180
    grid = Grid(slices, size, size, affine, frame_of_reference)
    sources = tuple(SourceFrame(str(ds.SOPClassUID), str(ds.SOPInstanceUID), 1, False) for ds in headers)
    return Volume(np.zeros((1, 1, 1), np.float32), grid, sources, tuple(headers), "CT")


def label_map(shape: tuple[int, int, int], segments: int) -> NDArray[np.uint8]:
    """Make ellipsoids as long as the volume, one per segment, side by side."""
    labels = np.zeros(shape, np.uint8)
    z, y, x = (np.linspace(-1, 1, size) for size in shape)
    for segment in range(segments):
        angle = 2 * np.pi * segment / segments
        disc = ((y[:, None] - np.sin(angle) * 0.6) ** 2 + (x[None] - np.cos(angle) * 0.6) ** 2) / 0.03
        for k in range(shape[0]):
            labels[k][disc + z[k] ** 2 * 0.9 < 1] = segment + 1
    return labels


def with_imaging_ai(volume: Volume, labels: NDArray[np.uint8], segments: int) -> tuple[bytes, dict[str, float]]:
    before, start, busy = _peak_mb(), time.perf_counter(), time.process_time()
    findings = []
    for number, box in enumerate(ndimage.find_objects(labels, segments), 1):
        region = Region(labels.shape, box, labels[box] == number)
        findings.append(Finding(number, ORGAN, region, f"organ {number}", derive_uid("t", str(number))))
    (seg,) = encode_results(volume, findings, MODEL, job_uid="2.25.2", created_at=1.7e9, kinds=("SEG",))
    figures = _figures(before, start, busy)
    start = time.perf_counter()
    check(seg, volume)
    return seg.data, figures | {"check_seconds": time.perf_counter() - start}


def with_highdicom(volume: Volume, labels: NDArray[np.uint8], segments: int) -> tuple[bytes, dict[str, float]]:
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=ORGAN.label,
            segmented_property_category=hd.sr.CodedConcept("123037004", "SCT", "Anatomical structure"),
            segmented_property_type=hd.sr.CodedConcept("113343008", "SCT", "Organ"),
            algorithm_type="AUTOMATIC",
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                "bench", hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"), "1"
            ),
        )
        for number in range(1, segments + 1)
    ]
    before, start, busy = _peak_mb(), time.perf_counter(), time.process_time()
    seg = hd.seg.Segmentation(
        volume.headers, labels, "BINARY", descriptions, "2.25.3", 1, "2.25.4", 1, "imaging-ai", "bench", "1", "0"
    )
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue(), _figures(before, start, busy)


def _figures(peak_before: float, start: float, busy: float) -> dict[str, float]:
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "peak_mb": _peak_mb() - peak_before,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(writer: str, size: int, slices: int, segments: int, path: str) -> None:
    write = {"imaging_ai": with_imaging_ai, "highdicom": with_highdicom}[writer]
    write(phantom(32, 4), label_map((4, 32, 32), 1), 1)  # highdicom reads its tables once per process
    volume, labels = phantom(size, slices), label_map((slices, size, size), segments)
    data, figures = write(volume, labels, segments)
    Path(path).write_bytes(data)
    Path(f"{path}.json").write_text(json.dumps(figures | {"megabytes": len(data) / 1e6}))


def _same(first: Path, second: Path, volume: Volume) -> bool:
    uids = [source.sop_instance_uid for source in volume.sources[:: max(1, len(volume.sources) // 20)]]
    pixels = [
        hd.seg.segread(path).get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        for path in (first, second)
    ]
    return bool(np.array_equal(*pixels))


def main() -> None:
    """Run both writers and print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for writer in ("imaging_ai", "highdicom"):
            path = Path(folder) / f"{writer}.dcm"
            arguments = (writer, options.size, options.slices, options.segments, str(path))
            runs = []
            for _ in range(options.repeat):
                process = processes.Process(target=_measure, args=arguments)
                process.start()
                process.join()
                if process.exitcode:
                    sys.exit(f"{writer} failed")
                runs.append(json.loads(Path(f"{path}.json").read_text()))
            results[writer] = min(runs, key=lambda run: float(run["cpu_seconds"]))
        volume = phantom(options.size, options.slices)
        same = _same(Path(folder) / "imaging_ai.dcm", Path(folder) / "highdicom.dcm", volume)
    ratio = results["highdicom"]["cpu_seconds"] / results["imaging_ai"]["cpu_seconds"]
    print(json.dumps(results | {"times_faster": round(ratio, 2), "same_when_read": same}, indent=1))


if __name__ == "__main__":
    main()
