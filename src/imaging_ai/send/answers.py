"""What a destination answered, and whether asking again may help.

The tables are those of the standard: C-STORE statuses (PS3.4 B.2.3, PS3.7 C), which STOW-RS repeats as Failure
Reason (PS3.18 I), and the reasons of a rejected association (PS3.8 9.3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Answer", "Verdict", "http_verdict", "rejection", "status_answer"]


class Verdict(StrEnum):
    """What to do with an instance after an answer."""

    STORED = "stored"
    PASSING = "passing"  # try again
    DOUBTFUL = "doubtful"  # said of what is wrong for good, but some answer so to trouble of their own: a few tries
    PERMANENT = "permanent"  # will be refused again


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one instance.

    `reason` is why, in words of ours. `said` are the destination's own, which may name a patient: they are kept with
    the delivery, and go into no log. `seen` says whether a query at the destination showed the instance
    afterwards (False also when there was no time to ask); None when the destination cannot be asked.
    """

    verdict: Verdict
    reason: str = ""
    seen: bool | None = None
    said: str = ""


#: First and last status of a range, verdict, meaning. The first range that holds a status counts.
_STATUSES: tuple[tuple[int, int, Verdict, str], ...] = (
    (0x0000, 0x0000, Verdict.STORED, ""),
    (0x0001, 0x0001, Verdict.STORED, "warning"),
    (0x0107, 0x0107, Verdict.STORED, "attribute list error"),
    (0x0110, 0x0110, Verdict.DOUBTFUL, "processing failure"),
    (0x0111, 0x0111, Verdict.STORED, "duplicate SOP instance: it was there already"),
    (0x0112, 0x0112, Verdict.PERMANENT, "no such SOP instance"),
    (0x0116, 0x0116, Verdict.STORED, "attribute value out of range"),
    (0x0117, 0x0117, Verdict.PERMANENT, "invalid SOP instance"),
    (0x0118, 0x0118, Verdict.PERMANENT, "no such SOP class"),
    (0x0122, 0x0122, Verdict.PERMANENT, "SOP class not supported"),
    (0x0124, 0x0124, Verdict.PERMANENT, "refused: not authorized"),
    (0x0210, 0x0210, Verdict.PASSING, "duplicate invocation"),
    (0x0211, 0x0212, Verdict.PERMANENT, "unrecognized operation or mistyped argument"),
    (0x0213, 0x0213, Verdict.PASSING, "resource limitation"),
    (0xA700, 0xA7FF, Verdict.PASSING, "refused: out of resources"),
    (0xA900, 0xA9FF, Verdict.PERMANENT, "data set does not match SOP class"),
    (0xB000, 0xB000, Verdict.STORED, "coercion of data elements"),
    (0xB006, 0xB006, Verdict.STORED, "elements discarded"),
    (0xB007, 0xB007, Verdict.STORED, "data set does not match SOP class, stored nevertheless"),
    (0xB000, 0xBFFF, Verdict.STORED, "warning"),
    (0xC122, 0xC122, Verdict.PERMANENT, "transfer syntax not supported"),
    (0xC000, 0xCFFF, Verdict.DOUBTFUL, "cannot understand"),
    (0xFE00, 0xFE00, Verdict.PASSING, "cancelled"),
)


def status_answer(status: int, comment: str = "") -> Answer:
    """Judge a C-STORE status, or a Failure or Warning Reason of STOW-RS; `comment` is the peer's own."""
    if status == 0:
        return Answer(Verdict.STORED)
    verdict, meaning = next(
        ((verdict, meaning) for first, last, verdict, meaning in _STATUSES if first <= status <= last),
        (Verdict.DOUBTFUL, "a status unknown to the standard"),
    )
    said = "".join(character for character in comment if character.isprintable()).strip()
    return Answer(verdict, f"0x{status:04X} {meaning}", said=said[:64])


#: Source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21): verdict when rejected for good, meaning and remedy.
#: Without a reason it may be overload, whatever the result says, so it is tried again.
_REJECTIONS: dict[tuple[int, int], tuple[Verdict, str]] = {
    (1, 1): (Verdict.PASSING, "no reason given; look into its log"),
    (1, 2): (Verdict.PERMANENT, "application context name not supported"),
    (1, 3): (
        Verdict.PERMANENT,
        "calling AE title not recognized; make {calling} known there, with this host and its DICOM port",
    ),
    (1, 7): (Verdict.PERMANENT, "called AE title not recognized; set ae_title of the destination to the peer's own"),
    (2, 1): (Verdict.PASSING, "no reason given by its association service"),
    (2, 2): (Verdict.PERMANENT, "protocol version not supported"),
    (3, 1): (Verdict.PASSING, "temporary congestion"),
    (3, 2): (Verdict.PASSING, "local limit exceeded; it has no association free"),
}


def rejection(result: int, source: int, reason: int, *, called: str, calling: str) -> Answer:
    """Judge a rejected association; `result` is 1 for permanent, 2 for transient."""
    verdict, meaning = _REJECTIONS.get((source, reason), (Verdict.PASSING, f"source {source}, reason {reason}"))
    if result != 1:
        verdict = Verdict.PASSING
    return Answer(verdict, f"{called} rejected the association: " + meaning.format(calling=calling))


#: HTTP statuses of a store request whose meaning is more than "asked wrongly" or "server trouble".
_HTTP: dict[int, tuple[Verdict, str]] = {
    401: (Verdict.PERMANENT, "credentials are missing or wrong; set username and password_file, or token_file"),
    403: (Verdict.PERMANENT, "these credentials may not store there"),
    404: (Verdict.PERMANENT, "no such service; url must be the DICOMweb root, such as https://host/dicom-web"),
    405: (Verdict.PERMANENT, "storing is not allowed at this url"),
    408: (Verdict.PASSING, "request time-out"),
    409: (Verdict.DOUBTFUL, "conflict, without a reason for this instance"),
    413: (Verdict.PERMANENT, "larger than the server takes"),
    415: (Verdict.PERMANENT, "media type or transfer syntax not supported"),
    429: (Verdict.PASSING, "too many requests"),
    501: (Verdict.PERMANENT, "storing is not implemented there"),
}


def http_verdict(status: int) -> Answer:
    """Judge the HTTP status of a STOW-RS request that says nothing of the instance."""
    if status in _HTTP:
        verdict, meaning = _HTTP[status]
    elif status < 400:
        verdict, meaning = Verdict.PERMANENT, "a redirection; set url to where the service is"
    elif status < 500:
        verdict, meaning = Verdict.PERMANENT, "refused"
    else:
        verdict, meaning = Verdict.PASSING, "trouble at the server"
    return Answer(verdict, f"HTTP {status}: {meaning}")
