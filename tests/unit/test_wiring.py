"""The composition root: the parts that the settings ask for, and what is said when they ask for the impossible."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imaging_ai import config, wiring
from imaging_ai.config import Settings
from imaging_ai.core.job import Job, JobState, Priority, Stage
from imaging_ai.core.permission import Role
from imaging_ai.db import migrate
from imaging_ai.db.engine import Database
from imaging_ai.errors import ConfigError, NotFound
from imaging_ai.send.destinations import DicomDestination
from imaging_ai.wiring import work
from imaging_ai.wiring.check import check_settings
from imaging_ai.wiring.web import first_link

DESTINATIONS = """
[dicom]
ae_title = "OURS"

[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "localhost"
port = 4242
"""


def settings(tmp_path: Path, text: str = "", **environment: str) -> Settings:
    file = tmp_path / "imaging-ai.toml"
    file.write_text(text)
    return config.load(file, {"IMAGING_AI_DATA_DIR": str(tmp_path / "data"), **environment})


def test_a_destination_is_found_by_name(tmp_path: Path) -> None:
    found = wiring.find_destination(settings(tmp_path, DESTINATIONS), "pacs")
    assert isinstance(found, DicomDestination)
    assert (found.ae_title, found.port, found.calling_ae_title) == ("ORTHANC", 4242, "OURS")


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("PEER@10.0.0.1:104", "10.0.0.1", 104),
        ("PEER@pacs.example:11112", "pacs.example", 11112),
        ("PEER@::1:104", "::1", 104),
    ],
)
def test_a_destination_may_be_written_as_an_address(tmp_path: Path, written: str, host: str, port: int) -> None:
    found = wiring.find_destination(settings(tmp_path), written)
    assert isinstance(found, DicomDestination)
    assert (found.name, found.ae_title, found.host, found.port) == ("PEER", "PEER", host, port)


@pytest.mark.parametrize("written", ["archive", "PEER@host", "@host:104", "PEER@:104", "PEER@host:port", "host:104"])
def test_what_is_no_destination_is_told_with_those_that_are(tmp_path: Path, written: str) -> None:
    with pytest.raises((NotFound, ConfigError)) as error:
        wiring.find_destination(settings(tmp_path, DESTINATIONS), written)
    assert written in error.value.message
    assert "pacs" in error.value.message or isinstance(error.value, ConfigError)


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    table = DESTINATIONS[DESTINATIONS.index("[[") :]
    with pytest.raises(ConfigError, match=r"destinations\[2\]: two destinations are called 'pacs'"):
        wiring.make_destinations(settings(tmp_path, table * 2))


def test_rules_are_held_against_models_and_destinations(tmp_path: Path) -> None:
    rule = '[[rules]]\nname = "pet"\nrun = ["fdg-pet-lesion"]\nsend = ["pacs"]\n'
    (parsed,) = wiring.make_rules(settings(tmp_path, DESTINATIONS + rule))
    assert parsed.run == ("fdg-pet-lesion",)
    with pytest.raises(ConfigError, match="'pacs' is no destination"):
        wiring.make_rules(settings(tmp_path, rule))
    with pytest.raises(ConfigError, match="'fdg-pet-lesion' is no model"):
        wiring.make_rules(settings(tmp_path, DESTINATIONS + rule, IMAGING_AI_MODELS_SHIPPED="false"))


def test_addresses_that_are_none_are_told(tmp_path: Path) -> None:
    one = settings(tmp_path, IMAGING_AI_DICOM_ADDRESSES="10.0.0.0/8,somewhere")
    with pytest.raises(ConfigError, match=r"dicom\.addresses.*somewhere"):
        wiring.make_receiver(one)


@pytest.mark.parametrize("proxies", ["0.0.0.0/0", "10.0.0.1,::/0", "proxy.example", "10.0.0.1/8"])
def test_proxies_are_addresses_and_not_everybody(tmp_path: Path, proxies: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.trusted_proxies.*(names everybody|give addresses or networks)"):
        wiring.make_proxies(settings(tmp_path, IMAGING_AI_HTTP_TRUSTED_PROXIES=proxies))
    assert wiring.make_proxies(settings(tmp_path)) == ()
    two = wiring.make_proxies(settings(tmp_path, IMAGING_AI_HTTP_TRUSTED_PROXIES="10.0.0.0/8, 2001:db8::1"))
    assert [str(one) for one in two] == ["10.0.0.0/8", "2001:db8::1/128"]


def test_a_new_sqlite_database_gets_its_tables_and_one_of_another_schema_is_refused(tmp_path: Path) -> None:
    one = settings(tmp_path)
    database = wiring.make_current_database(one)
    migrate.check_current(database)
    database.dispose()
    other = Database(one.database_url)
    with other.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = 'of the future'")
    other.dispose()
    with pytest.raises(ConfigError, match="'of the future'; a newer program has written it"):
        wiring.make_current_database(one)


def test_what_is_made_new_is_not_for_everybody_to_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        wiring.make_current_database(settings(tmp_path)).dispose()
    finally:
        os.umask(before)
    made = [tmp_path / "data", *(tmp_path / "data").iterdir()]
    assert {one.name for one in made} >= {"data", "imaging-ai.db", "audit.key"}
    assert [one for one in made if one.stat().st_mode & 0o007] == []


def test_making_the_parts_again_leaves_the_locks_that_sqlite_has_on_the_database(tmp_path: Path) -> None:
    """Closing any descriptor of a file ends a process's locks on it (fcntl(2)): who leaves then takes the WAL along."""
    here = wiring.make_current_database(settings(tmp_path))
    other = "import sqlite3, sys; it = sqlite3.connect(sys.argv[1]); it.execute('SELECT 1 FROM study'); it.close()"
    file = tmp_path / "data" / "imaging-ai.db"
    with here.engine.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM study").all()
        connection.commit()
        wiring.make_database(settings(tmp_path)).dispose()
        subprocess.run([sys.executable, "-c", other, str(file)], check=True)
        assert file.with_name("imaging-ai.db-wal").exists(), "somebody still works on it"
        connection.exec_driver_sql("SELECT count(*) FROM study").all()
    here.dispose()


def test_serve_runs_every_role_on_the_same_settings(tmp_path: Path) -> None:
    supervisor = wiring.make_supervisor(settings(tmp_path, "[dicom]\nprocesses = 2\n"))
    file = str(tmp_path / "imaging-ai.toml")
    assert {role.name: role.arguments for role in supervisor.roles} == {
        "receive-1": ("--config", file, "receive"),
        "receive-2": ("--config", file, "receive"),
        "describe": ("--config", file, "describe"),
        "web": ("--config", file, "web"),
        "work": ("--config", file, "work"),
    }


def test_a_job_may_take_as_long_as_its_model_says_and_never_longer_than_the_worker_allows(tmp_path: Path) -> None:
    catalog = wiring.make_catalog(settings(tmp_path))
    own = catalog.get("fdg-pet-lesion").time_limit
    job = Job(
        1, "1.2", JobState.IN_PROGRESS, Priority.LOW, "inference-cpu", "1", ("1",), 1, "r", "fdg-pet-lesion", "", (),
        1, 3, 0, Stage.QUEUE, 0.0, 0.0,
    )  # fmt: skip
    assert work._time_limit(catalog, 1e6, job) == own
    assert work._time_limit(catalog, 5.0, job) == 5.0
    assert work._time_limit(catalog, 7.0, dataclasses.replace(job, model="removed")) == 7.0


def test_wiring_itself_imports_nothing_heavy() -> None:
    heavy = "torch monai highdicom captum litestar pynetdicom"
    program = f"import sys, imaging_ai.wiring; print(*(name for name in {heavy.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_server_that_knows_nobody_has_a_link_for_the_first_administrator(tmp_path: Path) -> None:
    file = settings(tmp_path, IMAGING_AI_HTTP_HOST="0.0.0.0", IMAGING_AI_HTTP_PORT="8181")
    link = first_link(file)
    assert link is not None
    assert link.startswith("http://localhost:8181/first?link=")
    outside = settings(tmp_path, IMAGING_AI_HTTP_PUBLIC_URL="https://pacs.example/")
    assert str(first_link(outside)).startswith("https://pacs.example/first?link=")
    assert first_link(settings(tmp_path, IMAGING_AI_AUTH_MODE="off")) is None
    wiring.make_entrance(file).tokens.create("ehr", Role.SERVICE)
    assert first_link(file) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[worker]\ndevice = "gpu"', "worker.device is 'gpu'; give auto, cpu"),
        ('[storage]\nurl = "ftp://x"', "storage.url: give s3://"),
        ('[storage]\nurl = "s3://"', "storage.url"),
        ('[storage]\nencryption_key_file = "/nowhere"', "storage.encryption_key_file"),
        ('[storage]\nencryption_key_service = "vault://x"', "storage.encryption_key_service"),
        ('[broker]\nurl = "amqp://x"', "broker"),
        ('[database]\nurl = "mysql://x/y"', "database.url: give postgresql://"),
        ('[audit]\nsyslog = "host:514"', "audit.syslog"),
        ('[[retention]]\nname = "x"\nkeep_day = 3', "did you mean keep_days"),
        ('[http]\ntls_certificate = "/x.pem"', "http.tls_certificate: goes together with its key"),
        ('[http]\ntls_certificate = "/x.pem"\ntls_key = "/x.key"', "http.tls_certificate: /x.pem does not exist"),
        ('[http]\npublic_url = "pacs.example"', "http.public_url is 'pacs.example'"),
        ('[http]\ncors_origins = ["https://viewer.example/"]', "http.cors_origins"),
        ('[http]\ntrusted_proxies = ["0.0.0.0/0"]', "http.trusted_proxies"),
        ('[auth]\noidc_issuer = "http://x.example"', "auth.oidc_issuer"),
        ('[dicom]\naddresses = ["10.0.0.300"]', "dicom.addresses"),
        ('[dicom]\nsop_classes = ["hello"]', "dicom.sop_classes: 'hello' is no UID"),
        ('[models]\nfolders = ["/nowhere"]', "models.folders: /nowhere is no folder"),
    ],
)
def test_settings_that_cannot_be_used_are_named_before_anything_is_made(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_settings(settings(tmp_path, text))
    assert said in raised.value.message
    assert not (tmp_path / "data").exists()


def test_settings_as_they_come_can_be_used(tmp_path: Path) -> None:
    check_settings(settings(tmp_path, DESTINATIONS))
