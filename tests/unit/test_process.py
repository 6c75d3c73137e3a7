"""What a process does first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import os, pathlib, resource, sys
from imaging_ai.process import share_metrics
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # stands for a disk without room
    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
share_metrics(pathlib.Path(sys.argv[1]))
from imaging_ai import metrics
for number in range(60):
    metrics.JOBS.labels(f"model {number}", "completed").inc()
metrics.JOB_SECONDS.labels("model").observe(1.0)
print("shared" if "PROMETHEUS_MULTIPROC_DIR" in os.environ else "its own", metrics.JOBS._type)
"""


def count(folder: Path, disk: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-c", COUNT, str(folder), disk]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_counters_are_shared_in_files_that_have_their_room_beforehand(tmp_path: Path) -> None:
    assert count(tmp_path / "metrics", "roomy") == "shared counter\n"
    files = list((tmp_path / "metrics").iterdir())
    assert {file.stem.rpartition("_")[0] for file in files} == {"counter", "histogram", "gauge_livesum"}, "no others"
    for file in files:
        assert file.stat().st_blocks * 512 >= file.stat().st_size == 16384


def test_a_full_disk_costs_the_sharing_of_counters_and_not_the_process(tmp_path: Path) -> None:
    assert count(tmp_path / "metrics", "full") == "its own counter\n"
    assert list((tmp_path / "metrics").iterdir()) == []


_HEAPS = """
import ctypes, sys, tempfile, threading
from imaging_ai.process import few_heaps
if sys.argv[1] == "few":
    few_heaps()
libc, ready = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
def take():
    ready.wait()
    for _ in range(100):
        assert libc.malloc(1000)
    ready.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
with tempfile.NamedTemporaryFile() as told:
    out = ctypes.c_void_p(libc.fopen(told.name.encode(), b"w"))
    libc.malloc_info(0, out), libc.fclose(out)
    print(told.read().count(b"<heap "))
"""


def heaps(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", _HEAPS, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt(3) of glibc")
def test_threads_share_few_heaps() -> None:
    assert heaps("few") <= 2 < heaps("many")


def test_what_is_there_when_a_process_settles_is_not_gone_through_for_garbage_again() -> None:
    counts = "gc.get_freeze_count(), len(gc.get_objects())"
    program = f"import gc; from imaging_ai.process import settle; settle(); print({counts})"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    frozen, left = map(int, told.split())
    assert frozen > 1_000 > left


_FREED = """
import ctypes, time
from pathlib import Path
from imaging_ai.process import give_back
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
taken = [ctypes.c_void_p(libc.malloc(4000)) for _ in range(10_000)]
for one in taken:
    ctypes.memset(one, 1, 4000)
for one in taken[:-1]:
    libc.free(one)  # the last keeps the heap from being shortened
before = resident()
give_back(every=0.01)
while resident() > before - 30:
    time.sleep(0.01)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim(3) of glibc")
def test_what_was_freed_is_given_back_in_time() -> None:
    subprocess.run([sys.executable, "-c", _FREED], check=True, timeout=60)


_LEFT_BEHIND = """
import gc, time, weakref
from imaging_ai.process import give_back
class Frame:
    pass
gc.disable()
one = Frame()
one.itself, known = one, weakref.ref(one)
del one
give_back(every=0.01)
while known() is not None:
    time.sleep(0.01)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim(3) of glibc")
def test_what_knows_itself_and_is_known_to_nobody_else_goes_in_time() -> None:
    subprocess.run([sys.executable, "-c", _LEFT_BEHIND], check=True, timeout=60)
