"""DICOMweb: this program against Orthanc with its DICOMweb plugin, in one run on one machine.

    python bench/dicomweb.py                       everything, three interleaved rounds, a table at the end
    python bench/dicomweb.py --only metadata stow  some of it
    python bench/dicomweb.py --studies 500         fewer studies to search in
    IMAGING_AI_HTTP_PROCESSES=2 python bench/dicomweb.py

Both hold the same instances, stored over STOW-RS. The servers take turns and only ratios of medians count; a first
round counts for nothing. What is asked for the first time is other instances in each round; in a new window, those
that are open and decoded, as for who drags a window. Beside
frames and series stands the floor (`floor.py`): a server that does nothing but hand out files. The client
(`http_load.py`) is a raw one on the same machine; from some 2,000 small answers a second it takes much of a core.
Searches in 20,000 and 200,000 studies, without a peer, are in `qido.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomweb_data import CT_STUDY, MULTI_STUDY, TINY_STUDY, files, searches, small, stow
from http_load import Connection, load, request
from ingest import await_port, free_port, memory_mb, program

OURS, PEER, FLOOR = "imaging-ai", "orthanc", "floor"
UNITS = {"p50_ms": "ms", "per_second": "/s", "megabytes_per_second": "MB/s"}
COLD = 1  # rounds that do not count
SLICES, RENDERED, FRESH = 500, 100, 50
FRAME = "multipart/related; type=application/octet-stream; transfer-syntax=*"


@dataclass(frozen=True)
class Server:
    """A server that listens, and where its DICOMweb is; `others` are further processes of it."""

    name: str
    port: int
    pid: int
    others: tuple[int, ...] = ()

    def get(self, path: str, accept: str) -> bytes:
        return request(f"/dicom-web{path}", self.port, accept)


# -- the servers


@contextmanager
def ours(folder: Path) -> Iterator[Server]:
    """Start the web role, and the describer beside it."""
    port = free_port()
    environment = {
        **os.environ,
        "IMAGING_AI_DATA_DIR": str(folder / "ours"),
        "IMAGING_AI_HTTP_PORT": str(port),
        "IMAGING_AI_AUTH_MODE": "off",
        "IMAGING_AI_MODELS_SHIPPED": "false",
        "IMAGING_AI_LOG_LEVEL": "WARNING",
    }
    environment.pop("IMAGING_AI_CONFIG", None)
    log = (folder / "ours.log").open("wb")
    command = [sys.executable, "-m", "imaging_ai"]
    web = subprocess.Popen([*command, "web"], env=environment, stdout=log, stderr=log)
    await_port(web, port, folder / "ours.log")
    describer = subprocess.Popen([*command, "describe"], env=environment, stdout=log, stderr=log)
    try:
        workers = subprocess.run(
            ["pgrep", "-P", str(web.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        *others, pid = [int(worker) for worker in workers] or [web.pid]
        yield Server(OURS, port, pid, tuple(others))
    finally:
        for process in (web, describer):
            process.terminate()
            process.wait(30)


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Start Orthanc with its DICOMweb plugin."""
    port, plugins = free_port(), Path("/usr/share/orthanc/plugins")
    settings = {
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "DicomPort": free_port(),
        "HttpPort": port,
        "AuthenticationEnabled": False,
        "KeepAlive": True,
        "Plugins": [str(one) for one in plugins.glob("libOrthancDicomWeb.so*")][:1],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc").mkdir()
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = (folder / "orthanc.log").open("wb")
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(
        [program("Orthanc"), str(folder / "orthanc.json")], env=environment, stdout=log, stderr=log
    )
    try:
        await_port(process, port, folder / "orthanc.log")
        yield Server(PEER, port, process.pid)
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def floor() -> Iterator[Server]:
    """Start the server that only hands out files (`floor.py`)."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("floor.py")), str(port)])
    try:
        await_port(process, port, Path(os.devnull))
        yield Server(FLOOR, port, process.pid)
    finally:
        process.terminate()
        process.wait(30)


# -- what is stored


def fill(servers: Sequence[Server], instances: Iterator[bytes], at_once: int) -> None:
    """Store the same instances everywhere."""
    waiting: list[bytes] = []

    def flush() -> None:
        for server in servers:
            connection = Connection(server.port)  # anew: Orthanc hangs up after an idle second
            answer = connection.ask(stow(server.port, waiting))
            connection.close()
            if answer.status != 200:
                raise SystemExit(f"{server.name} answered {answer.status} to STOW")
        waiting.clear()

    for one in instances:
        waiting.append(one)
        if len(waiting) == at_once:
            flush()
    if waiting:
        flush()


# -- what is measured


@dataclass(frozen=True)
class Measure:
    """What is asked, over how many connections; which figure counts (more is better), and the goal."""

    name: str
    requests: Callable[[Server], Sequence[bytes]]
    connections: int
    figure: str
    goal: float


def frames(server: Server, count: int) -> list[bytes]:
    return [server.get(f"{place}/frames/1", FRAME) for place in (places(server, CT_STUDY) * 4)[:count]]


def places(server: Server, study: str) -> list[str]:
    """Return the paths of the instances of a study."""
    answer = Connection(server.port).ask(
        server.get(f"/studies/{study}/instances?limit=1000", "application/dicom+json"), keep=True
    )
    found = json.loads(answer.body)
    series = [one["0020000E"]["Value"][0] for one in found]
    uids = [one["00080018"]["Value"][0] for one in found]
    return [f"/studies/{study}/series/{e}/instances/{i}" for e, i in zip(series, uids, strict=True)]


def measures() -> dict[str, list[Measure]]:
    """Return everything that is measured, by group."""
    series = f"/studies/{CT_STUDY}/series/{CT_STUDY}.1"
    windows, fresh, opened = itertools.count(), itertools.count(), itertools.count()

    def pictures(server: Server, start: int, count: int, window: str = "") -> list[bytes]:
        here = places(server, CT_STUDY)[start : start + count]
        return [server.get(f"{place}/rendered{window}", "image/jpeg") for place in here]

    def rendered(server: Server) -> list[bytes]:
        return pictures(server, 0, RENDERED)

    def new_window(server: Server) -> list[bytes]:
        turn = next(windows) // 2  # the same for both servers
        return pictures(server, 0, RENDERED, f"?window=1024,{1000 + turn},linear")

    def first_rendered(server: Server) -> list[bytes]:
        turn = next(fresh) // 2
        return pictures(server, RENDERED + turn * FRESH % (SLICES - RENDERED), FRESH)

    def metadata(server: Server) -> list[bytes]:
        return [server.get(f"{series}/metadata", "application/dicom+json")] * 5

    def first_metadata(server: Server) -> list[bytes]:
        study = f"{TINY_STUDY}.{next(opened) // 2}"
        return [server.get(f"/studies/{study}/series/{study}.1/metadata", "application/dicom+json")]

    def search(query: str) -> Callable[[Server], list[bytes]]:
        return lambda server: [server.get(f"/studies?{query}", "application/dicom+json")] * 20

    whole = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    default = 'multipart/related; type="application/dicom"'
    return {
        "metadata": [
            Measure("first metadata of 500 slices", first_metadata, 1, "p50_ms", 20),
            Measure("metadata again", metadata, 1, "p50_ms", 20),
        ],
        "frames": [
            Measure("frames, 1 connection", lambda s: frames(s, 500), 1, "per_second", 6),
            Measure("frames, 8 connections", lambda s: frames(s, 2000), 8, "per_second", 6),
            Measure("frames, 32 connections", lambda s: frames(s, 2000), 32, "per_second", 10),
        ],
        "series": [
            Measure("whole series, *", lambda s: [s.get(series, whole)], 1, "megabytes_per_second", 1.2),
            Measure("whole series, default", lambda s: [s.get(series, default)], 1, "megabytes_per_second", 1.2),
        ],
        "rendered": [
            Measure("rendered in a new window, 1 connection", new_window, 1, "per_second", 2.5),
            Measure("rendered in a new window, 8 connections", new_window, 8, "per_second", 2.5),
            Measure("first rendered, 1 connection", first_rendered, 1, "per_second", 2.5),
            Measure("first rendered, 8 connections", first_rendered, 8, "per_second", 2.5),
            Measure("rendered again, 1 connection", rendered, 1, "per_second", 2.5),
            Measure("rendered again, 8 connections", rendered, 8, "per_second", 2.5),
        ],
        "qido": [Measure(f"QIDO {name}", search(query), 1, "p50_ms", 20) for name, query in searches().items()],
    }  # fmt: skip


def compare(one: Measure, servers: Sequence[Server], rounds: int) -> dict[str, Any]:
    """Let the servers take turns. The floor is asked what we are: it has no searches to learn the paths from."""
    runs: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    asked = {server.name: servers[0] if server.name == FLOOR else server for server in servers}
    for _ in range(COLD + rounds):
        for server in servers:
            requests, before = one.requests(asked[server.name]), cpu_seconds(server)
            figures = load(server.port, requests, one.connections)
            figures["cpu_us"] = (cpu_seconds(server) - before) / len(requests) * 1e6
            runs[server.name].append(figures)
    return verdict(one, {name: each[COLD:] for name, each in runs.items()})


def cpu_seconds(server: Server) -> float:
    """Return the processor time that a server has taken."""
    ticks = 0
    for pid in (server.pid, *server.others):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def verdict(one: Measure, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Print and return medians and the ratio of one measure."""
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()
    }
    mine, theirs = medians[OURS][one.figure], medians[PEER][one.figure]
    ratio = theirs / mine if one.figure.endswith("_ms") else mine / theirs
    for name, figures in medians.items():
        spread = sorted(run[one.figure] for run in runs[name])
        print(
            f"{one.name:39} {name:11} {figures['per_second']:8.1f}/s {figures['megabytes_per_second']:8.1f} MB/s "
            f"p50 {figures['p50_ms']:8.2f} ms p95 {figures['p95_ms']:8.2f} ms  ({spread[0]:.4g}-{spread[-1]:.4g})"
            + (f"  cpu {figures['cpu_us']:.0f} us" if "cpu_us" in figures else "")
        )
    if FLOOR in medians:
        print(f"{one.name:39} {mine / medians[FLOOR][one.figure]:.2f} of the floor")
    print(
        f"{one.name:39} ratio {ratio:.2f}  (goal {one.goal})  {'held' if ratio >= one.goal else 'MISSED'}", flush=True
    )
    return {"medians": medians, "figure": one.figure, "ratio": ratio, "goal": one.goal}


def table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was compared as a table in Markdown."""
    print("\n| what | imaging-ai | Orthanc | ratio | goal | of the floor |\n|---|---|---|---|---|---|")
    for name, one in results.items():
        if "ratio" not in one:
            continue
        figures = {server: each[one["figure"]] for server, each in one["medians"].items()}
        mine, theirs = (f"{figures[server]:,.4g} {UNITS[one['figure']]}" for server in (OURS, PEER))
        share = f"{figures[OURS] / figures[FLOOR]:.2f}" if FLOOR in figures else ""
        print(f"| {name} | {mine} | {theirs} | {one['ratio']:.1f} | {one['goal']:g} | {share} |")


def storing(servers: Sequence[Server], rounds: int) -> dict[str, Any]:
    """STOW of 500 CT slices, synced, 50 a request."""
    runs: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for number in range(COLD + rounds):
        for server in servers:
            study = f"1.2.840.999.4.{number}"
            parts = list(files("ct1", study, 500))
            requests = [stow(server.port, parts[start : start + 50]) for start in range(0, 500, 50)]
            os.sync()
            figures = load(server.port, requests, 1)
            figures["per_second"] *= 50
            figures["megabytes_per_second"] = figures["per_second"] * len(parts[0]) / 1e6
            runs[server.name].append(figures)
    counted = {name: each[COLD:] for name, each in runs.items()}
    return verdict(Measure("STOW, 50 a request", lambda _: [], 1, "per_second", 1.8), counted)


def multi_frame(server: Server) -> dict[str, Any]:
    """One frame of a 210 MB object beside a frame of a single-frame one; first byte of 2 GB; memory under 8 readers."""
    fill([server], files("mf200", MULTI_STUDY, 1), 1)
    wait_described(server, MULTI_STUDY, 1)
    (place,) = places(server, MULTI_STUDY)
    rng = random.Random(1)
    many = load(server.port, [server.get(f"{place}/frames/{rng.randrange(1, 401)}", FRAME) for _ in range(300)], 1)
    single = load(server.port, frames(server, 300), 1)
    ratio = many["p50_ms"] / single["p50_ms"]
    both = f"p50 {many['p50_ms']:.2f} ms, of a single-frame one {single['p50_ms']:.2f} ms"
    print(f"frame of 210 MB object     {both}: {ratio:.2f} (goal at most 2)")
    for more in range(9):
        fill([server], files("mf200", MULTI_STUDY, 1, prefix=f"1.2.840.999.2.7.{more}"), 1)
    wait_described(server, MULTI_STUDY, 10)
    before = memory_mb(server.pid, "VmRSS")
    whole = server.get(f"/studies/{MULTI_STUDY}", 'multipart/related; type="application/dicom"; transfer-syntax=*')
    first = Connection(server.port).ask(whole)
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.append(memory_mb(server.pid, "VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    figures = load(server.port, [whole] * 8, 8)
    done.set()
    watcher.join()
    rate, alone = figures["megabytes_per_second"], first.size / first.total / 1e6
    print(f"2.1 GB study, 1 reader     first byte {first.first * 1e3:.1f} ms (goal under 100), {alone:.0f} MB/s")
    print(f"2.1 GB study, 8 readers    {rate:.0f} MB/s, memory {before:.0f} MB before, at most {max(seen):.0f} MB")
    return {"frame_ratio": ratio, "first_byte_ms": first.first * 1e3, "before_mb": before, "peak_mb": max(seen)}


def wait_described(server: Server, study: str, count: int) -> None:
    """Wait until searches show what was stored, and the describer has had its time."""
    deadline = time.monotonic() + 120
    while len(places(server, study)) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{server.name} does not show what it stored")
        time.sleep(0.2)
    time.sleep(3)


def main() -> None:
    """Read the arguments and run."""
    groups = [*measures(), "stow", "multiframe"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=5_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, ours(Path(name)) as we, orthanc(Path(name)) as they:
        servers = (we, they)
        if set(arguments.only) - {"stow", "qido"}:
            fill(servers, files("ct1", CT_STUDY, SLICES), 50)
            for number in range(COLD + arguments.rounds if "metadata" in arguments.only else 0):
                fill(servers, files("tiny", f"{TINY_STUDY}.{number}", 500), 100)
            wait_described(we, CT_STUDY, SLICES)
        for group in ("metadata", "frames", "series", "rendered"):
            if group not in arguments.only:
                continue
            with floor() if group in ("frames", "series") else nullcontext() as bare:
                all_of_them = (*servers, bare) if bare else servers
                results |= {one.name: compare(one, all_of_them, arguments.rounds) for one in measures()[group]}
        if "multiframe" in arguments.only:
            results["multiframe"] = multi_frame(we)
        if "stow" in arguments.only:
            results["stow"] = storing(servers, arguments.rounds)
        if "qido" in arguments.only:
            fill(servers, (small(number) for number in range(arguments.studies)), 100)
            print(f"searching in {arguments.studies} studies")
            results |= {one.name: compare(one, servers, arguments.rounds) for one in measures()["qido"]}
    table(results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
