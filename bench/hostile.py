"""Hostile traffic on all ports of a whole server, and what a well-behaved client notices of it.

    python bench/hostile.py                     100,000 malformed inputs, 50 a second from 12 addresses
    python bench/hostile.py --inputs 5000 --rate 0
                                                fewer, as fast as they can
    python bench/hostile.py --each --inputs 500 --rate 0
                                                what an input of each kind costs the server

It ends with 1 where something does not hold: no crash, no 5xx, resident memory back within 50 MB, nothing left on the
disk but what was stored, and the well-behaved client's p95 at most three times its quiet value (which needs a machine
that does nothing else). Inputs follow from `--seed` (docs/hostile.md).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2e.besieged import Besieged, Vitals, besieged
from e2e.storm import KINDS
from e2e.watching import Held, Watch, WellBehaved

_MOST_MB, _MOST_TIMES = 50.0, 3.0


def main() -> int:
    """Run, print, and return 0 where everything holds."""
    options = _options()
    with (
        tempfile.TemporaryDirectory(prefix="imaging-ai-hostile-") as folder,
        besieged(Path(folder), requests=options.requests) as site,
    ):
        return _cost(site, options) if options.each else _measure(site, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    data = os.environ.get("IMAGING_AI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=50.0, help="inputs a second; 0: as fast as the clients can")
    parser.add_argument("--clients", type=int, default=12, help="hostile clients, each with an address of its own")
    parser.add_argument("--requests", type=float, default=100.0, help="http.requests_per_second of the server")
    parser.add_argument("--quiet", type=float, default=20.0, help="seconds of quiet before and after")
    parser.add_argument(
        "--each", action="store_true", help="so many of each kind, one kind after the other: their cost"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=Path, default=Path(data) / "syntaxes", help="real files to damage")
    return parser.parse_args()


def _cost(site: Besieged, options: argparse.Namespace) -> int:
    """Tell for each kind of input what it costs the server."""
    files = options.files if options.files.is_dir() else None
    plan = site.plan(options.inputs, files=files, clients=options.clients, rate=options.rate, seed=options.seed)
    site.storm(replace(plan, inputs=1_000))
    print("| input | ms of CPU each, web | receive | all | MB more | answers |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        began, held = _seconds(site), site.watch.total()
        said = site.storm(replace(plan, only=kind))
        time.sleep(1.0)
        spent = {role: (now - began[role]) * 1000 / options.inputs for role, now in _seconds(site).items()}
        more = site.watch.total().own - held.own
        answers = ", ".join(f"{entry.partition(chr(9))[2]} {count}" for entry, count in said.most_common(4))
        cells = (f"{one:.2f}" for one in (spent["web"], spent["receive"], sum(spent.values())))
        print(f"| {kind} | {' | '.join(cells)} | {more:.1f} | {answers} |", flush=True)
    return 0


def _seconds(site: Besieged) -> dict[str, float]:
    """Seconds of CPU that the processes of each role have used."""
    spent: dict[str, float] = defaultdict(float)
    for pid, role in site.watch.processes().items():
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        spent[role] += (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def _measure(site: Besieged, options: argparse.Namespace) -> int:
    files = options.files if options.files.is_dir() else None
    first = site.vitals()
    site.storm(site.plan(1_000, files=files, clients=options.clients, rate=options.rate, seed=options.seed + 1))
    time.sleep(20.0)  # what half-open connections are given, here and below
    good: dict[str, WellBehaved] = {}
    with site.good() as good["quiet"]:
        time.sleep(options.quiet)
    before = site.vitals()
    began = time.monotonic()
    with site.good() as good["storm"], _watched(site):
        plan = site.plan(options.inputs, files=files, clients=options.clients, rate=options.rate, seed=options.seed)
        said = site.storm(plan, quiet=False)
    seconds = time.monotonic() - began
    time.sleep(20.0)
    with site.good() as good["after"]:
        time.sleep(options.quiet)
    after = site.vitals()
    print(f"\n{options.inputs} inputs in {seconds:.0f} s, {options.inputs / seconds:.0f} a second\n")
    _print_answers(said)
    _print_vitals(before, after)
    held = ", ".join(f"{one.own:.0f} + {one.mapped:.0f}" for one in map(_total, (first, before, after)))
    print(f"resident, MB, own + mapped: {held} (at the very beginning, after 1,000 inputs for warming up, at the end)")
    _print_times(good)
    for phase, one in good.items():
        for wrong, count in Counter(one.wrong).most_common(5):
            print(f"the well-behaved client, {phase}: {count} × {wrong}")
    _print_log(site)
    failed = _failures(said, first, before, after, good)
    for failure in failed:
        print(f"DOES NOT HOLD: {failure}")
    return len(failed) > 0


@contextmanager
def _watched(site: Besieged, every: float = 30.0) -> Iterator[None]:
    """Say now and then how much memory there is of each process."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            held = site.watch.held().items()
            told = ", ".join(f"{role} {one.own:.0f} + {one.mapped:.0f}" for role, one in held)
            print(f"MB: {told}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()


def _print_answers(said: Counter[str]) -> None:
    kinds: dict[str, Counter[str]] = {}
    for entry, count in said.items():
        kind, _, answer = entry.partition("\t")
        kinds.setdefault(kind, Counter())[answer] += count
    print("| input | how many | answers |\n|---|---|---|")
    for kind, answers in sorted(kinds.items(), key=lambda one: -one[1].total()):
        print(f"| {kind} | {answers.total()} | {', '.join(f'{a} {n}' for a, n in answers.most_common())} |")


def _print_vitals(before: Vitals, after: Vitals) -> None:
    print("\n| process | MB before | after | mapped files, MB | after | descriptors | after | threads | after |")
    print("|---|---|---|---|---|---|---|---|---|")
    for role, now in after.held.items():
        then = before.held.get(role, Held())
        pairs = ((getattr(then, one.name), getattr(now, one.name)) for one in fields(Held))
        print(f"| {role} | " + " | ".join(f"{one:.0f} | {two:.0f}" for one, two in pairs) + " |")
    stored, size = after.instances - before.instances, after.stored_bytes - before.stored_bytes
    print(f"\nstored: {stored} instances, {size / 1e6:.1f} MB; data directory: ", end="")
    print(f"{before.data_bytes / 1e6:.1f} MB, then {after.data_bytes / 1e6:.1f} MB")
    print(
        f"audit: {after.audit_events - before.audit_events} events; log: {after.log_bytes - before.log_bytes} bytes\n"
    )


def _print_times(good: dict[str, WellBehaved]) -> None:
    quiet = good["quiet"]
    print("| ms, p50 / p95 | " + " | ".join(good) + " | p95 of the storm by quiet |\n|---|---|---|---|---|")
    for what in quiet.milliseconds:
        cells = (f"{one.percentile(what, 50):.1f} / {one.percentile(what, 95):.1f}" for one in good.values())
        ratio = good["storm"].percentile(what, 95) / quiet.percentile(what, 95)
        print(f"| {what} | {' | '.join(cells)} | {ratio:.1f} |")
    print()


def _print_log(site: Besieged) -> None:
    """What the log and the audit have most of, and what tells of a mistake of the server."""
    whole = (site.server.folder / "serve.log").read_text().splitlines()
    for at in [number for number, line in enumerate(whole) if Watch.is_fault(line)][:3]:
        print("\n".join(["MISTAKE", *whole[at : at + 40]]))
    lines = [line for line in (site.server.folder / "serve.log").read_text().splitlines() if "GOOD" not in line]
    for said, count in Counter(re.sub(r"[0-9]+", "#", line)[:100] for line in lines).most_common(12):
        print(f"log: {count} × {said}")
    asked = "SELECT action, outcome, count(*) AS n FROM audit_event GROUP BY action, outcome ORDER BY n DESC LIMIT 12"
    for row in site.server.rows(asked):
        print(f"audit: {row.n} × {row.action} {row.outcome}")


def _total(vitals: Vitals) -> Held:
    return sum(vitals.held.values(), Held())


def _resident(vitals: Vitals) -> float:
    """Return all that is resident, in MiB: the processes' own and mapped files."""
    return _total(vitals).own + _total(vitals).mapped


def _failures(
    said: Counter[str], first: Vitals, before: Vitals, after: Vitals, good: dict[str, WellBehaved]
) -> list[str]:
    fives = sum(count for entry, count in said.items() if entry.partition("\t")[2].startswith("5"))
    lost = [role for pid, role in before.processes.items() if pid not in after.processes and role != "work"]
    more = _resident(after) - _resident(first)
    ratios = [
        one.percentile(what, 95) / good["quiet"].percentile(what, 95)
        for one in (good["storm"],)
        for what in one.milliseconds
    ]
    found = {
        f"{fives} answers of 5xx": fives,
        f"processes that ended: {lost}": lost,
        f"{more:.0f} MB more are resident": more > _MOST_MB,
        f"p95 of the well-behaved client is {max(ratios):.1f} times its quiet value": max(ratios) > _MOST_TIMES,
        "the well-behaved client was not served": [one for each in good.values() for one in each.wrong],
    }
    return [what for what, is_so in found.items() if is_so]


if __name__ == "__main__":
    sys.exit(main())
