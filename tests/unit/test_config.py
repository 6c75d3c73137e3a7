"""The settings: precedence, and errors that name source, key and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import make_url

from imaging_ai import config, wiring
from imaging_ai.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "imaging-ai.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_lives_in_the_data_directory() -> None:
    settings = config.load(environment={"IMAGING_AI_DATA_DIR": "/somewhere"})
    assert settings.database_url == "sqlite:////somewhere/imaging-ai.db"
    assert settings.storage_url == "file:///somewhere/objects"
    assert (settings.dicom.port, settings.dicom.ae_title, settings.http.port) == (11112, "IMAGINGAI", 8080)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[dicom]\nport = 104\nae_title = "FILE"\n')
    settings = config.load(path, {"IMAGING_AI_DICOM_PORT": "11113"})
    assert (settings.dicom.port, settings.dicom.ae_title) == (11113, "FILE")


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "[http]\nport = 8181\n")
    assert config.load(environment={"IMAGING_AI_CONFIG": str(path)}).http.port == 8181


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    settings = config.load(environment={"IMAGING_AI_DICOM_CALLING_AE_TITLES": "CT1, ORTHANC"})
    assert settings.dicom.calling_ae_titles == ("CT1", "ORTHANC")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[dicom]\nprt = 1\n", r"dicom\.prt: unknown key; did you mean port\?"),
        ("[dcom]\nport = 1\n", r"dcom: unknown key; did you mean dicom\?"),
        ('[dicom]\nport = "many"\n', r"dicom\.port: Expected `int`"),
        ("[dicom]\nport = 70000\n", r"dicom\.port: Expected `int` <= 65535"),
        ('[dicom]\nack = "soon"\n', r"dicom\.ack: Invalid enum value 'soon'"),
        ("[dicom\n", "is not valid TOML"),
        ('[http]\nhost = "0.0.0.0"\n[auth]\nmode = "off"\n', "only this machine is served"),
        ('source = "elsewhere"\n', "source: unknown key"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_remedy(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=sentence) as error:
        config.load(path, {})
    assert "imaging-ai.toml" in error.value.message


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"IMAGING_AI_HTTP_PORT: http\.port"):
        config.load(environment={"IMAGING_AI_HTTP_PORT": "eighty"})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/x\.toml: cannot be read"):
        config.load("/nowhere/x.toml", {})


def test_passwords_are_masked() -> None:
    settings = config.load(environment={"IMAGING_AI_DATABASE_URL": "postgresql://ai:hunter2@db/ai"})
    assert config.masked(settings)["database"]["url"] == "postgresql://ai:***@db/ai"
    assert "hunter2" not in repr(config.masked(settings))


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ('[database]\nurl = "postgresql://ai:hunter2@db/ai"\n', "database.url", "database.password_file"),
        ('[database]\nurl = "postgresql://db/ai?user=ai&password=hunter2"\n', "database.url", "DATABASE_URL"),
        ('[broker]\nurl = "redis://:hunter2@queue/0"\n', "broker.url", "broker.password_file"),
        ('[storage]\nurl = "s3://key:hunter2@bucket"\n', "storage.url", "AWS_SECRET_ACCESS_KEY"),
        ('[storage]\nurl = "s3://b?secret_access_key=hunter2"\n', "storage.url", "AWS_SHARED_CREDENTIALS_FILE"),
        ('[[destinations]]\nname = "a"\n[[destinations]]\npassword = "hunter2"\n', "[2].password", "password_env"),
        ('[[destinations]]\ntoken = "hunter2"\n', "destinations[1].token", "token_file"),
        ('[[destinations]]\nurl = "https://me:hunter2@pacs/"\n', "destinations[1].url", "password_file"),
        ('[[destinations]]\nurl = "https://pacs/?access_token=hunter2"\n', "destinations[1].url", "token_file"),
    ],
)
def test_a_secret_in_the_file_is_refused_with_the_remedy_and_not_repeated(
    tmp_path: Path, text: str, place: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(remedy)) as error:
        config.load(write(tmp_path, text), {})
    assert f"{place}: holds a secret" in error.value.message
    assert "hunter2" not in error.value.message


def test_words_of_rules_and_names_of_files_are_no_secrets(tmp_path: Path) -> None:
    text = """
[[rules]]
when = { Token = "x", password = "y" }
[[destinations]]
name = "web"
url = "https://pacs.example:8443/dicom-web"
token_file = "/run/secrets/token"
[auth]
mode = "token"
"""
    settings = config.load(write(tmp_path, text), {})
    assert config.masked(settings)["destinations"][0]["token_file"] == "/run/secrets/token"


def test_passwords_come_from_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd\n")
    file.chmod(0o600)
    text = f"""
[database]
url = "postgresql://ai@db:5433/ai?sslmode=require"
password_file = "{file}"
[broker]
url = "rediss://queue:6379/0"
password_file = "{file}"
"""
    settings = config.load(write(tmp_path, text), {})
    assert settings.database_url == "postgresql://ai:p%40ss%2Fw%3Ard@db:5433/ai?sslmode=require"
    assert make_url(settings.database_url).password == "p@ss/w:rd"
    assert settings.broker.url == "rediss://:p%40ss%2Fw%3Ard@queue:6379/0"
    assert "w%3Ard" not in repr(config.masked(settings))
    assert not caplog.records
    file.chmod(0o644)
    config.load(write(tmp_path, text), {})
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[database]\nurl = "postgresql://ai@db/ai"\npassword_file = "/nowhere"\n',
            r"/nowhere cannot be read \(No such",
        ),
        ('[database]\nurl = "postgresql://ai@db/ai"\npassword_file = "/dev/null"\n', "/dev/null is empty"),
        ('[database]\npassword_file = "/dev/null"\n', "needs a database.url that names a server"),
        ('[broker]\npassword_file = "/dev/null"\n', "needs a broker.url that names a server"),
    ],
)
def test_a_password_file_that_is_no_use_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"password_file: .*{sentence}"):
        config.load(write(tmp_path, text), {})


def test_secrets_in_queries_are_masked() -> None:
    url = "s3://bucket/archive?endpoint=https://s3.example&secret_access_key=hunter2&region=eu"
    settings = config.load(environment={"IMAGING_AI_STORAGE_URL": url})
    assert config.masked(settings)["storage"]["url"] == url.replace("hunter2", "***")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", r"peers\[0\]: Object missing required field `ae_title`"),
        ('ae_title = "CT1"\naddress = ["10.0.0.1"]', r"peers\[0\]: .*unknown field `address`"),
        ('ae_title = "CT1"\nmay = ["delete"]', "Invalid enum value 'delete'"),
        ('ae_title = "CT1"\naddresses = ["10.0.0.300"]', r"peers\[1\]: addresses: .*give addresses or networks"),
        ('ae_title = "CT1"\ncertificates = ["CN=ct1"]', "nobody is asked for one; set dicom.tls_ca_file"),
        ('ae_title = "CT1"\nmegabytes_per_second = 0.01', "megabytes_per_second: give 0.1 or more"),
    ],
)
def test_a_peer_that_cannot_be_is_named(tmp_path: Path, table: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        wiring.make_peers(config.load(write(tmp_path, f"[[peers]]\n{table}\n"), {}))


def test_peers_are_read(tmp_path: Path) -> None:
    table = (
        '[[peers]]\nae_title = "CT1"\naddresses = ["10.0.0.0/8"]\nmegabytes_per_second = 2\ngigabytes_per_day = 1.5\n'
    )
    (peer,) = wiring.make_peers(config.load(write(tmp_path, table), {}))
    assert (peer.ae_title, peer.bytes_per_second, peer.bytes_per_day) == ("CT1", 2e6, 1_500_000_000)
    assert peer.is_at("10.1.2.3")
    assert not peer.is_at("11.1.2.3")


def test_tls_needs_certificate_and_key(tmp_path: Path) -> None:
    for text in ('tls_certificate = "/c.pem"', 'tls_ca_file = "/ca.pem"', 'tls_certificate = "/c"\ntls_key = "/k"'):
        with pytest.raises(ConfigError, match=r"key|/c is not there"):
            wiring.make_dicom_tls(config.load(write(tmp_path, f"[dicom]\n{text}\n"), {}))
    assert wiring.make_dicom_tls(config.load(environment={})) is None


def test_own_models_come_before_configured_and_shipped_ones(tmp_path: Path) -> None:
    settings = config.load(environment={"IMAGING_AI_DATA_DIR": str(tmp_path), "IMAGING_AI_MODELS_FOLDERS": "/more"})
    assert settings.model_folders[:2] == (tmp_path / "models", Path("/more"))
    assert settings.model_folders[2:] == ((shipped,) if (shipped := config.shipped_models()) else ())


def test_a_queue_that_nobody_rings_is_refused() -> None:
    with pytest.raises(ConfigError, match="WORKER_QUEUES"):
        config.load(None, {"IMAGING_AI_WORKER_QUEUES": "route,inference-gpus"})
    assert config.load(None, {"IMAGING_AI_WORKER_QUEUES": "route, delivery"}).worker.queues == ("route", "delivery")
