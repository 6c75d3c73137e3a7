"""The filter of system calls, run by a small machine of our own: what it answers to which call, on which machine."""

from __future__ import annotations

import errno

import pytest

from imaging_ai.sandbox.seccomp import program

ALLOWED, REFUSED, UNKNOWN, KILLED = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MINE, ANOTHER = 4242, 4243
CALLS = {  # the numbers of asm/unistd_64.h and asm-generic/unistd.h
    "read": (0, 63),
    "mmap": (9, 222),
    "futex": (202, 98),
    "openat": (257, 56),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "socket": (41, 198),
    "execve": (59, 221),
    "clone": (56, 220),
    "clone3": (435, 435),
    "kill": (62, 129),
    "prctl": (157, 167),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
}


def answer(machine: str, call: str | int, *arguments: int, known_as: int | None = None) -> int:
    """Run the filter as the kernel would (BPF of linux/filter.h: load, jump, return)."""
    number = call if isinstance(call, int) else CALLS[call][list(MACHINES).index(machine)]
    data = {0: number, 4: known_as or MACHINES[machine]}
    for index, value in enumerate([*arguments, *[0] * (6 - len(arguments))]):
        data[16 + 8 * index], data[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    instructions, at, held = program(machine, MINE), 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        assert 0 <= if_true < 256 and 0 <= if_false < 256
        if code == 0x06:
            return value
        if code == 0x20:
            held, step = data[value], 0
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            step = if_true if holds else if_false
        at += 1 + step


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_network_needs_is_allowed_and_what_an_intruder_needs_is_not(machine: str) -> None:
    for call in ("read", "mmap", "futex", "openat", "sendmsg", "recvmsg"):
        assert answer(machine, call) == ALLOWED, call
    for call in ("socket", "execve"):
        assert answer(machine, call) == REFUSED, call


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_are_started_and_processes_are_not(machine: str) -> None:
    assert answer(machine, "clone", 0x003D0F00) == ALLOWED  # what pthread_create(3) asks for
    assert answer(machine, "clone", 0x01200011) == REFUSED  # what fork(3) asks for
    assert answer(machine, "clone", 0x10000000) == REFUSED  # a user namespace
    assert answer(machine, "clone3") == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_only_oneself_is_signalled_and_limited(machine: str) -> None:
    for call in ("kill", "prlimit64"):
        assert answer(machine, call, MINE) == answer(machine, call, 0) == ALLOWED
        assert answer(machine, call, ANOTHER) == answer(machine, call, (1 << 64) - 1) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_a_command_is_refused_by_its_value_whatever_its_upper_half(machine: str) -> None:
    assert answer(machine, "prctl", 15) == ALLOWED  # a name for a thread
    assert answer(machine, "prctl", 1) == answer(machine, "prctl", (1 << 32) + 1) == REFUSED
    assert answer(machine, "fcntl", 3, 1030) == ALLOWED  # a copy of a descriptor
    assert answer(machine, "fcntl", 3, 8) == answer(machine, "fcntl", 3, 15) == REFUSED
    assert answer(machine, "ioctl", 3, 0xC0384646) == ALLOWED  # a GPU's driver
    assert answer(machine, "ioctl", 3, 0x5412) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_a_later_kernel_or_of_another_machine_lead_nowhere(machine: str) -> None:
    assert answer(machine, 470) == answer(machine, 0x40000000 + 41) == UNKNOWN
    assert answer(machine, "read", known_as=0x40000003) == KILLED


def test_a_machine_without_a_table_has_no_filter() -> None:
    with pytest.raises(OSError, match="riscv64"):
        program("riscv64", MINE)
