"""Documents and frame tables: microseconds per instance, ours and pydicom's, in one run.

    python bench/describe.py FOLDER [FOLDER …]

Both read the same bytes from memory. "first" is the first pass of a fresh process, "again" the median of later
passes, when the elements that instances of a series share are remembered.
"""

from __future__ import annotations

import argparse
import gc
import io
import statistics
import sys
import time
import warnings
from pathlib import Path

import pydicom
from pydicom.encaps import parse_fragments

from imaging_ai.archive.document import make_document, pack_bulk, reader_of


def ours(data: bytes) -> int:
    document = make_document(reader_of(data), len(data), "1.2.3")
    return len(document.json) + len(document.frames.pack()) + len(pack_bulk(document.bulk))


def pydicoms(data: bytes) -> int:
    ds = pydicom.dcmread(io.BytesIO(data))
    json = ds.to_json(bulk_data_element_handler=lambda _: "uri", suppress_invalid_tags=True)
    if "PixelData" in ds and ds.file_meta.TransferSyntaxUID.is_encapsulated:
        parse_fragments(ds.PixelData)
    return len(json)


def measure(files: list[bytes], passes: int) -> dict[str, list[float]]:
    """Return microseconds of CPU per instance of each pass."""
    times: dict[str, list[float]] = {"ours": [], "pydicom": []}
    for _ in range(passes):
        for name, function in (("ours", ours), ("pydicom", pydicoms)):
            gc.collect()
            start = time.process_time()
            for data in files:
                function(data)
            times[name].append((time.process_time() - start) / len(files) * 1e6)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=100, help="files of each folder")
    parser.add_argument("--passes", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'folder':28} {'files':>5} {'first':>8} {'again':>8} {'pydicom':>9} {'ratio':>6}   (us per instance)")
    for folder in arguments.folders:
        paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
        files = [data for path in paths[: arguments.limit * 2] if (data := path.read_bytes())[128:132] == b"DICM"]
        files = files[: arguments.limit]
        if not files:
            sys.exit(f"no DICOM files in {folder}")
        times = measure(files, arguments.passes)
        first, again, theirs = (
            times["ours"][0],
            statistics.median(times["ours"][1:]),
            statistics.median(times["pydicom"]),
        )
        print(f"{str(folder)[-28:]:28} {len(files):5} {first:8.0f} {again:8.0f} {theirs:9.0f} {theirs / again:6.1f}")


if __name__ == "__main__":
    main()
