"""Group commit: who comes together is committed together, and nobody is forgotten."""

from __future__ import annotations

import threading

import pytest

from imaging_ai.archive.commit import GroupCommit


def test_a_lone_caller_is_committed_in_its_own_thread() -> None:
    threads: list[int] = []
    group = GroupCommit[int](lambda items: threads.append(threading.get_ident()))
    group.run(1)
    assert threads == [threading.get_ident()]


def test_those_who_come_during_a_commit_share_the_next() -> None:
    batches: list[list[int]] = []
    first_is_in, go_on = threading.Event(), threading.Event()

    def commit(items: list[int]) -> None:
        batches.append(sorted(items))
        first_is_in.set()
        go_on.wait(10)

    group = GroupCommit[int](commit)
    threads = [threading.Thread(target=group.run, args=(number,)) for number in range(6)]
    threads[0].start()
    first_is_in.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(group._waiting) < 5:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert batches == [[0], [1, 2, 3, 4, 5]]


def test_a_failure_reaches_every_caller_of_its_batch_and_no_other() -> None:
    def commit(items: list[int]) -> None:
        if 13 in items:
            raise ValueError("unlucky")

    group = GroupCommit[int](commit, largest=1)
    group.run(1)
    with pytest.raises(ValueError, match="unlucky"):
        group.run(13)
    group.run(2)


def test_nothing_is_lost_or_done_twice_under_load() -> None:
    done: list[int] = []
    group = GroupCommit[int](done.extend, largest=7)

    def work(start: int) -> None:
        for number in range(start, start + 200):
            group.run(number)
            assert number in done[-2000:]

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 1600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == list(range(1600))
