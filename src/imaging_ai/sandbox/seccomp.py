"""The system calls that a model's process cannot make: a seccomp filter (seccomp(2), classic BPF).

What opens a socket, starts or touches another process, or changes the system is refused with EPERM, so that a library
that only tries goes on. Calls newer than this table are answered as by an older kernel (ENOSYS).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection, Iterator

__all__ = ["install", "program"]

#: x86-64 and AArch64 number of what is refused whatever its arguments; None where the machine has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # the network, and peers on this machine
    "socket": (41, 198),
    "socketpair": (53, 199),  # a datagram socket of a pair can send to any other of this machine
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # other programs and processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    # memory that outlives or leaves the process, or is not counted
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # what Landlock leaves open: owner, mode, times, attributes and length of files by their names
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    # ways into the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "vhangup": (153, 58),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "lookup_dcookie": (212, 18),
}
#: The argument of these names a process: only oneself, by number or as 0, is one.
_OF_A_PROCESS: dict[str, tuple[int, int, int]] = {
    "kill": (62, 129, 0),
    "tgkill": (234, 131, 0),
    "rt_sigqueueinfo": (129, 138, 0),
    "rt_tgsigqueueinfo": (297, 240, 0),
    "prlimit64": (302, 261, 0),
    "sched_setaffinity": (203, 122, 0),
    "sched_setscheduler": (144, 119, 0),
    "sched_setparam": (142, 118, 0),
    "sched_setattr": (314, 274, 0),
    "migrate_pages": (256, 238, 0),
    "move_pages": (279, 239, 0),
}
#: Refused with these values of an argument.
_REFUSED_WITH: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to whom one likes, sent by the kernel
    "fcntl": (72, 25, 1, (8, 10, 15)),
    # FIOSETOWN, SIOCSPGRP: the same; TIOCSTI, TIOCLINUX: typing at somebody's terminal
    "ioctl": (16, 29, 1, (0x8901, 0x8902, 0x5412, 0x541C)),
    # PR_SET_PDEATHSIG: outliving the parent; PR_SET_DUMPABLE, PR_SET_MM, PR_SET_PTRACER
    "prctl": (157, 167, 0, (1, 4, 35, 0x59616D61)),
}
_CLONE, _CLONE3, _CLONE_THREAD = (56, 220), (435, 435), 0x10000
_NEWEST = 469  # Linux 6.17

_LOAD, _EQUAL, _NOT_BELOW, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

_Instruction = tuple[int, int, int, int]


def program(machine: str, pid: int, but: Collection[str] = ()) -> list[_Instruction]:
    """Return the filter for a process as BPF instructions (code, jump if true, jump if false, value).

    `but` names calls that are refused otherwise.

    Raises
    ------
    OSError
        If the machine is none that it is written for.
    """
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    column, known_as = _MACHINES[machine]
    return [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, known_as),
        (_RETURN, 0, 0, _KILL),  # a call by the table of another machine
        (_LOAD, 0, 0, _NUMBER),
        (_NOT_BELOW, 0, 1, _NEWEST + 1),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
        *_rules(column, pid, but),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _rules(column: int, pid: int, but: Collection[str]) -> Iterator[_Instruction]:
    refuse, allow = (_RETURN, 0, 0, _ERROR | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    for name, numbers in _REFUSED.items():
        if name not in but and (number := numbers[column]) is not None:
            yield from ((_EQUAL, 0, 1, number), refuse)
    yield from ((_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | errno.ENOSYS))  # its flags cannot be seen
    yield from ((_EQUAL, 0, 4, _CLONE[column]), _argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse)
    for x86, arm, argument in _OF_A_PROCESS.values():
        mine = ((_EQUAL, 1, 0, pid), (_EQUAL, 0, 1, 0))
        yield from ((_EQUAL, 0, 5, (x86, arm)[column]), _argument(argument), *mine, allow, refuse)
    for x86, arm, argument, values in _REFUSED_WITH.values():
        tests = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
        yield from ((_EQUAL, 0, len(tests) + 3, (x86, arm)[column]), _argument(argument), *tests, allow, refuse)


def _argument(index: int) -> _Instruction:
    """Load the lower half of an argument: all that the kernel reads of a process, a flag or a command."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(but: Collection[str] = ()) -> None:
    """Filter the system calls of this thread and of those that it starts, for good; `but` are let through.

    Raises
    ------
    OSError
        If the kernel has no such filter, or not for this machine.
    """
    instructions = program(platform.machine(), os.getpid(), but)
    code = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    given = _Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
