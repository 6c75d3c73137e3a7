"""Statuses, rejections and HTTP answers, judged by the standard's tables."""

from __future__ import annotations

import pytest

from imaging_ai.send.answers import Answer, Verdict, http_verdict, rejection, status_answer


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.STORED),
        (0x0111, Verdict.STORED),  # it was there already; the check-back tells whether it is ours
        (0xB000, Verdict.STORED),
        (0xB123, Verdict.STORED),
        (0xA700, Verdict.PASSING),
        (0xA7FF, Verdict.PASSING),
        (0x0213, Verdict.PASSING),
        (0xFE00, Verdict.PASSING),
        (0xC000, Verdict.DOUBTFUL),
        (0xC123, Verdict.DOUBTFUL),
        (0x0110, Verdict.DOUBTFUL),
        (0x4242, Verdict.DOUBTFUL),
        (0xA900, Verdict.PERMANENT),
        (0x0122, Verdict.PERMANENT),
        (0x0124, Verdict.PERMANENT),
        (0xC122, Verdict.PERMANENT),
    ],
)
def test_a_store_status_has_a_verdict(status: int, verdict: Verdict) -> None:
    assert status_answer(status).verdict is verdict


def test_success_needs_no_words() -> None:
    assert status_answer(0x0000, "fine") == Answer(Verdict.STORED)


def test_the_peers_comment_is_kept_short_and_printable() -> None:
    answer = status_answer(0xA700, "disk\x00 full\n" + "!" * 100)

    assert answer.reason == "0xA700 refused: out of resources"
    assert answer.said.startswith("disk full!")
    assert len(answer.said) == 64


def test_a_permanent_rejection_names_the_remedy() -> None:
    unknown_caller = rejection(1, 1, 3, called="PACS", calling="US")
    wrong_title = rejection(1, 1, 7, called="PACS", calling="US")

    assert unknown_caller.verdict is wrong_title.verdict is Verdict.PERMANENT
    assert "PACS rejected the association" in unknown_caller.reason
    assert "make US known there" in unknown_caller.reason
    assert "set ae_title of the destination to the peer's own" in wrong_title.reason


@pytest.mark.parametrize(("result", "source", "reason"), [(2, 1, 7), (1, 3, 1), (1, 3, 2), (2, 3, 2), (1, 1, 1)])
def test_a_transient_or_crowded_or_wordless_rejection_is_passing(result: int, source: int, reason: int) -> None:
    assert rejection(result, source, reason, called="PACS", calling="US").verdict is Verdict.PASSING


def test_a_rejection_for_reasons_unknown_to_the_standard_says_its_numbers() -> None:
    assert "source 1, reason 9" in rejection(1, 1, 9, called="PACS", calling="US").reason


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (302, Verdict.PERMANENT),
        (400, Verdict.PERMANENT),
        (401, Verdict.PERMANENT),
        (404, Verdict.PERMANENT),
        (409, Verdict.DOUBTFUL),
        (415, Verdict.PERMANENT),
        (429, Verdict.PASSING),
        (500, Verdict.PASSING),
        (503, Verdict.PASSING),
    ],
)
def test_an_http_status_has_a_verdict_and_is_named(status: int, verdict: Verdict) -> None:
    answer = http_verdict(status)

    assert answer.verdict is verdict
    assert answer.reason.startswith(f"HTTP {status}: ")
