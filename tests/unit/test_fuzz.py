"""Whatever fuzzing ever found stays mended, and what it begins with is still right (`make fuzz`, docs/hostile.md)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import fuzz
from fuzz.seeds import SEEDS
from fuzz.targets import TARGETS

FOUND = Path(str(fuzz.__file__)).parent / "found"
CASES = sorted(path for path in FOUND.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name[:20]}")
def test_what_was_found_once_is_taken_as_bad_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_is_near_them_are_taken_or_refused(name: str) -> None:
    chance = random.Random(name)
    for seed in SEEDS[name]():
        TARGETS[name](seed)
        for _ in range(30):
            damaged = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(damaged))
                damaged[at : at + chance.choice((0, 1, 1, 4))] = chance.randbytes(chance.choice((0, 1, 1, 4)))
                damaged = damaged or bytearray(b"\0")
            TARGETS[name](bytes(damaged))


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()
