"""How fast instances come in: this program against DCMTK's storescp and Orthanc, in one run on one machine.

    python bench/ingest.py                    every shape, three interleaved rounds, ratios at the end
    python bench/ingest.py --shapes ct1 tiny  some shapes
    python bench/ingest.py --json out.json    the figures for a script

Machines are noisy, so the receivers take turns and only ratios of medians count. The sender is a raw one: its PDUs
are made beforehand, and it does nothing but write them and read the answers. Both peers run with TCP_NODELAY=1,
without which DCMTK leaves Nagle's algorithm on and serves some twenty instances a second.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

UID_WIDTH = 40
CT_IMAGE, ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Shape:
    """What is sent: how many instances of how many bytes, over how many associations; the targets of interest."""

    instances: int
    rows: int
    frames: int
    associations: int
    one_each: bool
    receivers: tuple[str, ...]
    goals: tuple[tuple[str, str, float], ...]


SHAPES = {
    "ct1": Shape(500, 512, 1, 1, False, ("synced", "orthanc"), (("synced", "orthanc", 2.0),)),
    "ct4": Shape(500, 512, 1, 4, False, ("synced", "orthanc"), (("synced", "orthanc", 2.3),)),
    "ct16": Shape(500, 512, 1, 16, False, ("synced", "orthanc"), (("synced", "orthanc", 1.8),)),
    "received": Shape(500, 512, 1, 1, False, ("received", "storescp"), (("received", "storescp", 0.9),)),
    "tiny": Shape(2000, 8, 1, 1, False, ("synced", "orthanc"), (("synced", "orthanc", 1.0),)),
    "mf200": Shape(1, 512, 400, 1, False, ("synced", "orthanc"), (("synced", "orthanc", 4.0),)),
    "each": Shape(300, 8, 1, 1, True, ("synced", "orthanc"), (("synced", "orthanc", 0.45),)),
    "plain": Shape(200, 512, 1, 1, False, ("plain", "synced"), ()),
}


# -- what is sent


def template(shape: Shape) -> tuple[bytes, str]:
    """Make a data set with the header of a real CT, synthetic pixels, and UIDs of fixed width to be patched."""
    import numpy as np
    from pydicom import Dataset, dcmwrite

    ds = Dataset()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = ENHANCED_CT_IMAGE if shape.frames > 1 else CT_IMAGE
    ds.SOPInstanceUID = "1." + "7" * (UID_WIDTH - 2)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240102"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101112.000000"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "A1234567", "CT", "Bench"
    ds.InstitutionName, ds.ReferringPhysicianName, ds.StationName = "Bench", "Doe^Jane", "CT01"
    ds.StudyDescription, ds.SeriesDescription, ds.ManufacturerModelName = "CT ABDOMEN", "AXIAL 3.0", "Model"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Bench^Ingest", "B0001", "19500101", "O"
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP = "ABDOMEN", 3, 120
    ds.DataCollectionDiameter, ds.ReconstructionDiameter, ds.GantryDetectorTilt = 500, 360, 0
    ds.TableHeight, ds.RotationDirection, ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = 150, "CW", 500, 200, 100
    ds.ProtocolName, ds.ConvolutionKernel, ds.PatientPosition, ds.FilterType = "Abdomen", "B30", "FFS", "0"
    ds.StudyInstanceUID = "1." + "8" * (UID_WIDTH - 2)
    ds.SeriesInstanceUID = "1." + "9" * (UID_WIDTH - 2)
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 2, 1, 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-180, -180, 0], [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.SliceLocation = "1.2.3.4.5", 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelSpacing = 1, "MONOCHROME2", [0.7, 0.7]
    ds.Rows = ds.Columns = shape.rows
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = 40, 400, -1024, 1
    for number in range(24):
        ds.add_new(0x00191010 + number, "LO", f"private value {number}")
    ds.add_new(0x00190010, "LO", "BENCH")
    if shape.frames > 1:
        ds.NumberOfFrames = shape.frames
    rng = np.random.default_rng(1)
    ds.PixelData = rng.integers(0, 4096, shape.rows * shape.rows * shape.frames, dtype=np.uint16).tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return buffer.getvalue(), str(ds.SOPClassUID)


def command(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> bytes:
    """Make the command set of a C-STORE request."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    body = (
        element(0x0002, sop_class_uid.encode())
        + element(0x0100, b"\x01\0")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\0\0")
        + element(0x1000, sop_instance_uid.encode())
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def message(head: bytes, data: memoryview, sop_class_uid: str, uid: str, limit: int) -> list[bytes | memoryview]:
    """Cut one C-STORE request into PDUs. `head` is the patched beginning of the data set, `data` the shared rest."""
    request = command(sop_class_uid, uid, 1)
    parts: list[bytes | memoryview] = [struct.pack(">BBIIBB", 4, 0, len(request) + 6, len(request) + 2, 1, 3) + request]
    room, views = limit - 6, [memoryview(head), data]
    total, position = len(head) + len(data), 0
    while position < total:
        size = min(room, total - position)
        last = position + size == total
        parts.append(struct.pack(">BBIIBB", 4, 0, size + 6, size + 2, 1, 2 if last else 0))
        while size:
            if not len(views[0]):
                views.pop(0)
            piece = views[0][:size]
            views[0] = views[0][len(piece) :]
            parts.append(piece)
            size -= len(piece)
            position += len(piece)
    return parts


def messages(shape: Shape, limit: int) -> list[list[bytes | memoryview]]:
    """Make all requests, each with UIDs that nobody has seen."""
    whole, sop_class_uid = template(shape)
    cut = min(len(whole), 4096)
    rest = memoryview(whole)[cut:]
    run = f"{int.from_bytes(os.urandom(6), 'big'):015d}"
    made = []
    for number in range(shape.instances):
        uid = f"1.2.{run}.{number}.".ljust(UID_WIDTH, "1")
        head = whole[:cut]
        for digit, tail in (("8", "3"), ("9", "4")):
            head = head.replace(b"1." + digit.encode() * (UID_WIDTH - 2), f"1.2.{run}.".ljust(UID_WIDTH, tail).encode())
        head = head.replace(b"1." + b"7" * (UID_WIDTH - 2), uid.encode())
        made.append(message(head, rest, sop_class_uid, uid, limit))
    return made


# -- the sender


def associate(port: int, sop_class_uid: str) -> tuple[socket.socket, int]:
    """Open an association with one presentation context; returns the peer's limit for PDUs."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = bytes((1, 0, 0, 0)) + item(0x30, sop_class_uid.encode()) + item(0x40, EXPLICIT_LITTLE_ENDIAN.encode())
    user = item(0x51, struct.pack(">I", 131072)) + item(0x52, b"1.2.3.4") + item(0x55, b"BENCH")
    body = struct.pack(">HH", 1, 0) + b"IMAGINGAI".ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    sock = socket.create_connection(("127.0.0.1", port), 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
    kind, answer = read_pdu(sock)
    if kind != 2:
        raise RuntimeError(f"the association was not accepted: PDU {kind}")
    at = answer.index(b"\x51\0\0\x04") + 4
    return sock, struct.unpack(">I", answer[at : at + 4])[0] or 131072


def read_pdu(sock: socket.socket) -> tuple[int, bytes]:
    """Read one PDU."""
    data = sock.recv(65536)
    while len(data) < 6 or len(data) < 6 + struct.unpack(">I", data[2:6])[0]:
        more = sock.recv(65536)
        if not more:
            raise RuntimeError("the peer closed the association")
        data += more
    return data[0], data[6:]


def store(sock: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    """Send one request and demand success."""
    parts = list(parts)
    while parts:
        sent = sock.sendmsg(parts[:1000])
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if parts and sent:
            parts[0] = memoryview(parts[0])[sent:]
    _, answer = read_pdu(sock)
    at = answer.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
    (status,) = struct.unpack("<H", answer[at : at + 2])
    if status:
        raise RuntimeError(f"status {status:#06x}")


def release(sock: socket.socket) -> None:
    """Release the association."""
    sock.sendall(struct.pack(">BBII", 5, 0, 4, 0))
    read_pdu(sock)
    sock.close()


def send(shape: Shape, port: int) -> dict[str, float]:
    """Send a shape once; returns instances and megabytes a second, and the median time of a request in ms."""
    sop_class_uid = ENHANCED_CT_IMAGE if shape.frames > 1 else CT_IMAGE
    sock, limit = associate(port, sop_class_uid)
    release(sock)
    requests = messages(shape, min(limit, 131072))
    size = sum(len(part) for part in requests[0])
    times: list[float] = []
    errors: list[BaseException] = []

    def work(share: Sequence[Sequence[bytes | memoryview]]) -> None:
        try:
            sock = None if shape.one_each else associate(port, sop_class_uid)[0]
            for request in share:
                began = time.perf_counter()
                if sock is None:
                    alone = associate(port, sop_class_uid)[0]
                    store(alone, request)
                    release(alone)
                else:
                    store(sock, request)
                times.append(time.perf_counter() - began)
            if sock is not None:
                release(sock)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(requests[number :: shape.associations],))
        for number in range(shape.associations)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
    return {
        "per_second": shape.instances / seconds,
        "megabytes_per_second": shape.instances * size / seconds / 1e6,
        "p50_ms": statistics.median(times) * 1e3,
    }


# -- the receivers


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def receive(folder: Path, port: int, ack: str, data_path: str) -> None:
    """Run our receiver in this process until SIGTERM."""
    from imaging_ai.receive.lean import leave_out_decoders

    leave_out_decoders()
    from sqlmodel import SQLModel

    import imaging_ai.db.tables  # noqa: F401 - declares the tables
    from imaging_ai.archive.archive import Archive
    from imaging_ai.archive.blobs import FolderStore
    from imaging_ai.db.engine import Database
    from imaging_ai.receive.policy import AssociationPolicy
    from imaging_ai.receive.scp import StorageScp

    logging.basicConfig(level=logging.WARNING)
    database = Database(os.environ.get("IMAGING_AI_BENCH_DATABASE_URL") or f"sqlite:///{folder}/index.db")
    SQLModel.metadata.create_all(database.engine)
    archive = Archive(database, FolderStore(folder / "objects", sync=ack == "synced"))
    scp = StorageScp(archive, AssociationPolicy(data_path=data_path), host="127.0.0.1", port=port)
    scp.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    scp.stop()
    archive.close()


@contextmanager
def receiver(kind: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Start a receiver; gives its port and process id."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {**os.environ, "TCP_NODELAY": "1"}
    if kind == "storescp":
        arguments = [program("storescp"), "--fork", "+xa", "-od", str(folder), str(port)]
    elif kind == "orthanc":
        settings = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "DicomAet": "IMAGINGAI",
            "DicomPort": port,
            "HttpPort": free_port(),
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        arguments = [program("Orthanc"), str(folder / "orthanc.json")]
    else:
        ack, path = ("received", "fast") if kind == "received" else ("synced", "plain" if kind == "plain" else "fast")
        arguments = [sys.executable, __file__, "--receive", str(folder), str(port), ack, path]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    try:
        await_port(process, port, folder / "log")
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """Find an installed program."""
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if found is None:
        raise SystemExit(f"{name} is not installed")
    return found


def await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until somebody listens."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise SystemExit(f"the receiver ended at once:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)
    raise SystemExit("the receiver did not come up")


def memory_mb(pid: int, field: str = "VmHWM") -> float:
    """Return the peak (VmHWM) or present (VmRSS) memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


# -- the runs


def measure(name: str, shape: Shape, rounds: int, folder: Path) -> dict[str, object]:
    """Let the receivers of a shape take turns; return medians and ratios."""
    figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in shape.receivers}
    peaks: dict[str, float] = {}
    with ExitStack() as stack:
        running = {kind: stack.enter_context(receiver(kind, folder / f"{name}-{kind}")) for kind in shape.receivers}
        for _ in range(rounds):
            for kind, (port, _) in running.items():
                os.sync()  # what the one before left unwritten must not slow this one's syncs
                done = subprocess.run(
                    [sys.executable, __file__, "--send", name, str(port)], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise SystemExit(f"{name} to {kind} failed:\n{done.stderr}")
                figures[kind].append(json.loads(done.stdout))
        peaks = {kind: memory_mb(pid) for kind, (_, pid) in running.items()}
    rates = {kind: statistics.median(one["per_second"] for one in runs) for kind, runs in figures.items()}
    result: dict[str, object] = {}
    for kind, runs in figures.items():
        spread = sorted(one["per_second"] for one in runs)
        megabytes = statistics.median(one["megabytes_per_second"] for one in runs)
        p50 = statistics.median(one["p50_ms"] for one in runs)
        result[kind] = {"per_second": rates[kind], "p50_ms": p50, "peak_mb": peaks[kind], "runs": spread}
        print(
            f"{name:9} {kind:9} {rates[kind]:8.1f}/s ({spread[0]:.0f}-{spread[-1]:.0f}) {megabytes:7.1f} MB/s "
            f"p50 {p50:7.2f} ms  peak {peaks[kind]:5.0f} MB"
        )
    for ours, peer, goal in shape.goals:
        ratio = rates[ours] / rates[peer]
        result[f"{ours}/{peer}"] = ratio
        print(f"{name:9} {ours} / {peer} = {ratio:.2f}  (goal {goal})  {'held' if ratio >= goal else 'MISSED'}")
    return result


def flat_memory(folder: Path) -> dict[str, float]:
    """Send 10,000 instances and watch the memory of our receiver."""
    seen = {}
    with receiver("received", folder / "flat") as (port, pid):
        for thousands in range(1, 11):
            subprocess.run([sys.executable, __file__, "--send", "thousand", str(port)], check=True, capture_output=True)
            if thousands in (1, 2, 5, 10):
                seen[f"{thousands}000"] = memory_mb(pid, "VmRSS")
    print("memory    " + "  ".join(f"after {count}: {size:.1f} MB" for count, size in seen.items()))
    return seen


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, "memory"], default=[*SHAPES, "memory"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the receivers store; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--receive", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        folder, port, ack, path = arguments.receive
        receive(Path(folder), int(port), ack, path)
        return
    if arguments.send:
        name, port = arguments.send
        shape = SHAPES.get(name) or Shape(1000, 8, 1, 1, False, (), ())
        print(json.dumps(send(shape, int(port))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        figures: dict[str, object] = {}
        for name in arguments.shapes:
            if name == "memory":
                figures[name] = flat_memory(Path(temporary))
            else:
                figures[name] = measure(name, SHAPES[name], arguments.rounds, Path(temporary))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
