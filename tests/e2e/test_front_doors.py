"""The front doors stay light: what they load, what they weigh, and that they weigh no more after much work."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from e2e.server import Server, push
from phantoms import ball, series, write

pytestmark = pytest.mark.service

HEAVY = ("torch", "monai", "highdicom", "captum", "scipy", "skimage")
SEEN_IN_MAPS = tuple(f"/{name}/" for name in HEAVY)
LARGEST = 250 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Only the front doors run, so that nothing else takes the processor."""
    with Server(tmp_path_factory.mktemp("doors")) as server:
        server.cli("db", "upgrade")
        server.start("receive")
        server.start("web")
        server.wait_ready()
        yield server


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def resident(pid: int) -> int:
    """Bytes of memory that a process has for itself or shares, as the kernel counts them (RSS)."""
    (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kilobytes) << 10


def processor_seconds(pid: int) -> float:
    """User and system time that a process has used since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("role", ["receive", "web"])
def test_no_process_of_a_front_door_maps_a_model_library_or_weighs_much(server: Server, role: str) -> None:
    server.get("/metrics")
    server.get("/api/jobs")
    for pid in family(server.processes[role].pid):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert not [name for name in SEEN_IN_MAPS if name in mapped]
        print(f"{role} {pid}: {resident(pid) / 1e6:.0f} MB, {processor_seconds(pid):.2f} s of processor time")
        assert resident(pid) < LARGEST


@pytest.mark.parametrize("role", ["receive", "web"])
def test_what_a_front_door_imports_is_light(server: Server, role: str, tmp_path: Path) -> None:
    """Build the role as the command does, in a process of its own, and see what it has imported and used."""
    build = {
        "receive": "one = wiring.make_receiver(settings); one.start(); one.stop()",
        "web": "import imaging_ai.serve.server; wiring.make_web_app(settings)",
    }[role]
    program = (
        "import sys, time\n"
        "from imaging_ai import config, wiring\n"
        "settings = config.load(None)\n"
        f"{build}\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))\n"
        "print(time.process_time())\n"
    )
    environment = {**server.environment, "IMAGING_AI_DICOM_PORT": "0", "IMAGING_AI_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    loaded, seconds = done.stdout.splitlines()[-2:]
    print(f"{role} is built with {seconds} s of processor time")
    assert loaded == ""


def test_the_command_line_itself_loads_nothing_heavy() -> None:
    program = (
        "import sys, imaging_ai.cli\n"
        "heavy = ('torch', 'monai', 'numpy', 'pydicom', 'pynetdicom', 'sqlalchemy', 'litestar', 'rich')\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_the_receiver_weighs_no_more_after_a_hundred_and_fifty_associations_and_a_thousand_instances(
    server: Server, tmp_path: Path
) -> None:
    receiver = server.processes["receive"].pid
    template = phantom(1, tmp_path)[0].read_bytes()
    for _ in range(30):
        send(server, template, 10, tmp_path)  # what is made once and kept: threads, caches, pages of the database
    before = resident(receiver)
    for number in range(150):
        send(server, template, 7 if number else 100, tmp_path)
    after = resident(receiver)
    print(f"receiver {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after")
    assert server.rows("SELECT count(*) AS n FROM instance")[0].n == 300 + 149 * 7 + 100
    assert after - before < 15 << 20


def phantom(slices: int, folder: Path) -> list[Path]:
    return write(series(ball((slices, 16, 16))), folder / "made")


def send(server: Server, template: bytes, instances: int, folder: Path) -> None:
    """One association of DCMTK's with so many fresh instances of one new series."""
    target = folder / "fresh"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    ds = pydicom.dcmread(io.BytesIO(template), stop_before_pixels=True)
    data = template
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        data = data.replace(ds[keyword].value.encode(), uid_like(ds[keyword].value))
    for number in range(instances):
        one = data.replace(ds.SOPInstanceUID.encode(), uid_like(ds.SOPInstanceUID))
        (target / str(number)).write_bytes(one)
    push(server.dicom_port, target)


def uid_like(uid: str) -> bytes:
    """A fresh UID of the same length, so that it can take another's place in a file."""
    return f"2.25.1{secrets.randbelow(10 ** (len(uid) - 6)):0{len(uid) - 6}d}".encode()
