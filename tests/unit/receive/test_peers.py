"""Who a peer is, and how much it may: names, addresses, certificates, rates and shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlmodel import SQLModel

from imaging_ai.archive.usage import DailyUse
from imaging_ai.audit import refusals as refusals_module
from imaging_ai.audit.refusals import RefusalLog
from imaging_ai.core.contexts import VERIFICATION
from imaging_ai.core.pace import Pace
from imaging_ai.db.engine import Database
from imaging_ai.db.tables import InstanceRow, SeriesRow, StudyRow
from imaging_ai.errors import ConfigError, NotAllowed, OverLimit
from imaging_ai.receive import allowance as allowance_module
from imaging_ai.receive.allowance import Allowance, Allowances
from imaging_ai.receive.negotiation import negotiate
from imaging_ai.receive.pdu import ProposedContext
from imaging_ai.receive.peers import ANYONE, Certificate, Peer, parse_certificate
from imaging_ai.receive.policy import AssociationPolicy, Refusal

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
SHOWN = Certificate("ab" * 32, frozenset({("commonName", "ct1"), ("organizationName", "Clinic")}))


# -- who it is

WARD = Peer("CT1", networks=(ip_network("10.1.0.0/16"),))
VAN = Peer("CT1", networks=(ip_network("10.2.0.0/16"),), certificates=(Certificate("ab" * 32),))
REST = Peer("*", networks=(ip_network("10.0.0.0/8"),), may=frozenset({"echo"}))


@pytest.mark.parametrize(
    ("peers", "title", "address", "shown", "expected"),
    [
        ((), "ANY", "1.2.3.4", None, ANYONE),
        ((WARD, VAN), "CT1", "10.1.2.3", None, WARD),
        ((WARD, VAN), "CT1", "::ffff:10.1.2.3", None, WARD),
        ((WARD, VAN), "CT1", "10.2.0.1", SHOWN, VAN),
        ((WARD, VAN), "CT1", "10.2.0.1", None, Refusal.PEER_CERTIFICATE),
        ((WARD, VAN), "CT1", "10.2.0.1", Certificate("cd" * 32), Refusal.PEER_CERTIFICATE),
        ((WARD, VAN), "CT1", "10.3.0.1", SHOWN, Refusal.PEER_ADDRESS),
        ((WARD, VAN), "MR1", "10.1.2.3", SHOWN, Refusal.CALLING_AE_TITLE),
        ((WARD, REST), "MR1", "10.9.9.9", None, REST),
        ((WARD, REST), "CT1", "10.9.9.9", None, Refusal.PEER_ADDRESS),
        ((WARD, REST), "MR1", "11.0.0.1", None, Refusal.PEER_ADDRESS),
    ],
)
def test_a_peer_is_its_title_its_address_and_its_certificate(
    peers: tuple[Peer, ...], title: str, address: str, shown: Certificate | None, expected: Peer | Refusal
) -> None:
    assert AssociationPolicy(peers=peers).peer(title, address, shown) is expected


@pytest.mark.parametrize(
    ("written", "is_meant"),
    [
        ("ab" * 32, True),
        ("SHA256:" + ":".join(["AB"] * 32), True),
        ("cd" * 32, False),
        ("CN=ct1", True),
        ("o=Clinic , cn=ct1", True),
        ("CN=ct1,O=Other", False),
        ("CN=CT1", False),
    ],
)
def test_a_certificate_is_named_by_fingerprint_or_subject(written: str, is_meant: bool) -> None:
    meant = parse_certificate(written)
    assert meant.is_shown_by(SHOWN) is is_meant
    assert not meant.is_shown_by(None)


@pytest.mark.parametrize("written", ["", "ct1", "sha256:abcd", "CN=", "XX=ct1", "ab" * 31])
def test_what_names_no_certificate_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="neither a SHA-256 fingerprint nor a subject"):
        parse_certificate(written)


def test_a_peer_gets_the_contexts_of_what_it_may_do() -> None:
    proposed = [ProposedContext(1, CT, (IMPLICIT,)), ProposedContext(3, VERIFICATION, (IMPLICIT,))]
    for may, results in (({"echo", "store"}, (0, 0)), ({"echo"}, (1, 0)), ({"store"}, (0, 1)), (set(), (1, 1))):
        accepted, answers = negotiate(AssociationPolicy(), proposed, Peer("CT1", may=frozenset(may)))
        assert (answers[1][0], answers[3][0]) == results
        assert accepted.keys() == {number for number, (result, _) in answers.items() if result == 0}


# -- how much it may


@dataclass
class Clock:
    now: float = 1_000_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    SQLModel.metadata.create_all(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(allowance_module, "time", SimpleNamespace(sleep=lambda seconds: clock.sleep(seconds)))
    monkeypatch.setattr(allowance_module, "Pace", lambda rate, burst: Pace(rate, burst, clock))
    return clock


def allowance(database: Database, peer: Peer, clock: Clock | None = None) -> Allowance:
    use = DailyUse(database, clock=clock or Clock())
    return Allowances((peer,), use, RefusalLog(database)).of(peer)


def test_instances_over_the_rate_wait_and_are_refused_only_when_they_would_wait_for_long(
    database: Database, clock: Clock
) -> None:
    slow = allowance(database, Peer("CT1", instances_per_second=2.0), clock)
    for _ in range(5):
        slow.begin("CT1", "10.0.0.1")
    assert clock.slept == [0.0, 0.0, 0.5, 0.5, 0.5]
    clock.sleep = lambda seconds: None  # type: ignore[method-assign]
    with pytest.raises(OverLimit, match="slow down"):  # as from many associations at once
        for _ in range(50):
            slow.begin("CT1", "10.0.0.1")


def test_bytes_over_the_rate_are_read_later(database: Database, clock: Clock) -> None:
    narrow = allowance(database, Peer("CT1", bytes_per_second=2e6), clock)
    for _ in range(40):
        narrow.came(100_000)
    assert sum(clock.slept) == pytest.approx(1.0, abs=0.1), "4 MB at 2 MB a second, of which a second's worth at once"
    assert max(clock.slept) <= 5.0


def test_a_peer_that_may_not_store_is_told_so_whatever_it_got_accepted(database: Database) -> None:
    with pytest.raises(NotAllowed):
        allowance(database, Peer("CT1", may=frozenset({"echo"}))).begin("CT1", "10.0.0.1")
    assert [detail for _, detail in told(database)] == ["not-allowed"]


def test_so_many_associations_at_once_and_no_more(database: Database) -> None:
    two = allowance(database, Peer("CT1", max_associations=2))
    assert [two.enter(), two.enter(), two.enter()] == [True, True, False]
    two.leave()
    assert two.enter(further=1) is False
    assert two.enter() is True


# -- the share of a day


def keep(database: Database, source: str, size: int, at: float) -> None:
    """Have an instance in the index, in a series of its own."""
    with database.write() as session:
        number = session.connection().execute(text("SELECT count(*) FROM instance")).scalar_one()
        study = StudyRow(study_instance_uid=f"1.1.{number}", created_at=at, updated_at=at)
        session.add(study)
        session.flush()
        series = SeriesRow(study_id=study.id, series_instance_uid=f"1.2.{number}", source=source)
        series.settle_at = series.last_received_at = series.created_at = at
        session.add(series)
        session.flush()
        where = {"blob_key": "", "blob_offset": 0, "blob_length": size}
        what = {"sop_instance_uid": f"1.3.{number}", "sop_class_uid": CT, "transfer_syntax_uid": IMPLICIT}
        session.add(InstanceRow(series_id=series.id, received_at=at, **what, **where))


NOON = 20_000 * 86_400 + 43_200


def test_the_share_of_a_day_counts_what_the_index_holds_since_midnight(database: Database) -> None:
    for hours, size in ((-30, 1), (-13, 2), (-12, 4), (-1, 8)):
        keep(database, "CT1", size, NOON + hours * 3600)
        keep(database, "MR1", 100 * size, NOON + hours * 3600)
    clock = Clock(NOON)
    use = DailyUse(database, clock=clock)
    assert (use.of("CT1"), use.of("MR1"), use.of("US1")) == (12, 1200, 0)
    assert use.of_all_but({"CT1"}) == 1200
    use.add("CT1", 16)
    assert use.of("CT1") == 28
    assert use.seconds_left() == 43_200


def test_what_other_processes_kept_is_seen_within_a_minute_and_nothing_is_counted_twice(database: Database) -> None:
    clock = Clock(NOON)
    use = DailyUse(database, clock=clock)
    assert use.of("CT1") == 0
    keep(database, "CT1", 5, NOON)
    use.add("CT1", 5)  # our own
    keep(database, "CT1", 7, NOON)  # another's
    assert use.of("CT1") == 5
    clock.now += 61
    assert use.of("CT1") == 12
    clock.now += 86_400
    assert use.of("CT1") == 0, "a new day"


def test_who_has_stored_its_share_is_refused_and_it_is_in_the_audit_once(database: Database) -> None:
    keep(database, "CT1", 1_000, NOON)
    full = allowance(database, Peer("CT1", bytes_per_day=1_000), Clock(NOON))
    for _ in range(500):
        with pytest.raises(OverLimit, match="share of today") as caught:
            full.begin("CT1", "10.0.0.1")
    assert caught.value.dimse_status == 0xA700
    assert told(database) == [("begin-transferring-instances", "over-limit")]


def test_everybody_else_shares_one_share(database: Database) -> None:
    peers = (Peer("CT1"), Peer("*", bytes_per_day=100))
    keep(database, "CT1", 1_000, NOON)
    keep(database, "WITH", 60, NOON)
    keep(database, "OTHER", 60, NOON)
    everybody = Allowances(peers, DailyUse(database, clock=Clock(NOON)), RefusalLog(database)).of(peers[1])
    with pytest.raises(OverLimit):
        everybody.begin("A-NEW-NAME", "10.0.0.1")


# -- refusals in the audit


def told(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        rows = session.connection().execute(text("SELECT action, detail FROM audit_event ORDER BY id"))
        return [(row.action, row.detail) for row in rows]


def test_refusals_of_one_address_are_counted_and_told_ever_more_seldom(database: Database) -> None:
    clock = Clock()
    log = RefusalLog(database, clock=clock)
    log.note("address-not-allowed", "10.0.0.1", "CT1")
    assert told(database) == [("open-association", "address-not-allowed")], "the first at once"
    hours = 24
    for _ in range(hours * 360):
        for title in ("CT1", "CT2", "CT3"):
            log.note("address-not-allowed", "10.0.0.1", title)
        clock.now += 10
        log.tell()
    details = [detail for _, detail in told(database)]
    assert details[1] == "address-not-allowed, 3 times, as 3 AE titles"
    assert len(details) < 2 * hours + 10
    for _ in range(2):
        clock.now += 7200
        log.tell()
    log.note("address-not-allowed", "10.0.0.1", "CT1")
    assert told(database)[-1][1] == "address-not-allowed", "who was quiet begins anew"
    log.close()


def test_refusals_of_any_number_of_addresses_take_bounded_memory_and_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_module, "_MOST_TALLIES", 20)
    log = RefusalLog(database, clock=Clock())
    for number in range(3000):
        log.note("address-not-allowed", f"10.0.{number // 256}.{number % 256}", f"AE{number}")
    assert len(log._tallies) == 21
    log.close()
    assert len(told(database)) == 22
    assert told(database)[-1][1] == "address-not-allowed, 2979 times, as 32 AE titles"


def test_a_refusal_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")  # without tables yet
    clock = Clock()
    log = RefusalLog(database, clock=clock)
    log.note("address-not-allowed", "10.0.0.1", "CT1")
    SQLModel.metadata.create_all(database.engine)
    clock.now += 11
    log.tell()
    assert told(database) == [("open-association", "address-not-allowed")]
    log.close()
    database.dispose()
