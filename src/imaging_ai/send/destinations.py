"""Destinations of results: the `[[destinations]]` tables of the settings as values.

A destination is a Storage SCP (`ae_title`, `host`, `port`) or a DICOMweb service (`url`). Secrets are named by file
or environment variable, never written in the settings, and read anew for each use.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imaging_ai.core.identity import parse_ae_title
from imaging_ai.errors import ConfigError, InputError

__all__ = ["Destination", "DicomDestination", "Secret", "WebDestination"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Somewhere results go.

    Attributes
    ----------
    max_attempts
        After so many a delivery is dead; with the usual back-off the default is about a day.
    check_back
        Whether to ask afterwards what arrived.
    connect_timeout, timeout
        Seconds to connect, and seconds that the peer may stay silent.
    ca_file
        Over TLS: the authorities whose certificates are believed, or the peer's own; "" for those of this machine.
    certificate, key
        Over TLS: what we show of ourselves, "" for nothing (PEM files).
    check_host_name
        Over TLS: whether the peer's certificate must be for its host; only with `ca_file` it need not.
    """

    name: str
    max_attempts: int = 100
    check_back: bool = True
    connect_timeout: float = 10.0
    timeout: float = 60.0
    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    check_host_name: bool = True

    @staticmethod
    def parse(mapping: Mapping[str, Any], where: str, *, calling_ae_title: str = "IMAGINGAI") -> Destination:
        """Make a destination of one table of the settings; `calling_ae_title` is ours unless it names another.

        Raises
        ------
        ConfigError
            If a key is missing, unknown or wrong; it names the key and the remedy.
        """
        return _parse(dict(mapping), where, calling_ae_title)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomDestination(Destination):
    """A Storage SCP (PS3.4 B), with `tls` over a secure transport connection (PS3.15 B.12)."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str = "IMAGINGAI"
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is kept; `read` fetches it."""

    kind: str  # file | env
    place: str

    def read(self) -> str:
        """Return the secret.

        Raises
        ------
        ConfigError
            If the file or the variable is not there.
        """
        if self.kind == "env":
            value = os.environ.get(self.place, "")
        else:
            try:
                value = Path(self.place).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"the secret file {self.place} cannot be read: {error.strerror}") from None
        if not value:
            raise ConfigError(f"the secret in {self.kind} {self.place} is empty")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class WebDestination(Destination):
    """A DICOMweb service (PS3.18): STOW-RS, and QIDO-RS for the check-back. `url` has no slash at its end."""

    url: str
    username: str = ""
    password: Secret | None = field(default=None, repr=False)
    token: Secret | None = field(default=None, repr=False)


_COMMON = {item.name for item in fields(Destination)}
_DICOM = {"ae_title", "host", "port", "calling_ae_title", "tls"}
_WEB = {"url", "username", "password_file", "password_env", "token_file", "token_env"}
_TLS = ("ca_file", "certificate", "key")


def _parse(table: dict[str, Any], where: str, calling_ae_title: str) -> Destination:
    name = _text(table, "name", where)
    where = f"{where} ({name})"
    is_web = "url" in table
    allowed = _COMMON | (_WEB if is_web else _DICOM)
    for key in table:
        if key not in allowed:
            raise ConfigError(f"{where}: {key}: {_unknown(key, allowed, is_web=is_web)}")
    common: dict[str, Any] = {"name": name, **_tls(table, where)}
    if "check_back" in table:
        common["check_back"] = _flag(table, "check_back", where)
    if "max_attempts" in table:
        common["max_attempts"] = int(_number(table, "max_attempts", where, 1, 100_000, whole=True))
    for key in ("connect_timeout", "timeout"):
        if key in table:
            common[key] = _number(table, key, where, 0.001, 86_400)
    return _web(table, where, common) if is_web else _dicom(table, where, common, calling_ae_title)


def _dicom(table: Mapping[str, Any], where: str, common: Mapping[str, Any], calling: str) -> DicomDestination:
    titles: dict[str, Any] = {}
    for key, value in (
        ("ae_title", _text(table, "ae_title", where)),
        ("calling_ae_title", table.get("calling_ae_title", calling)),
    ):
        try:
            titles[key] = parse_ae_title(str(value))
        except InputError as error:
            raise ConfigError(f"{where}: {key}: {error}") from None
    port = int(_number(table, "port", where, 1, 65_535, whole=True))
    tls = _flag(table, "tls", where) if "tls" in table else False
    _check_tls(table, where, "tls = true", is_secure=tls)
    return DicomDestination(**common, **titles, host=_text(table, "host", where), port=port, tls=tls)


def _web(table: Mapping[str, Any], where: str, common: Mapping[str, Any]) -> WebDestination:
    url = _text(table, "url", where).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{where}: url: give the DICOMweb root, such as https://host/dicom-web")
    if parts.username or parts.password:
        raise ConfigError(f"{where}: url: keep credentials out of it; set username and password_file")
    password, token = _secret(table, "password", where), _secret(table, "token", where)
    username = str(table.get("username", ""))
    if bool(username) != bool(password):
        raise ConfigError(f"{where}: username: goes together with password_file or password_env")
    if password and token:
        raise ConfigError(f"{where}: token_file: give either a token or a username with a password")
    _check_tls(table, where, "an https address", is_secure=parts.scheme == "https")
    return WebDestination(**common, url=url, username=username, password=password, token=token)


def _tls(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read what TLS needs."""
    found: dict[str, Any] = {key: str(table[key]) for key in _TLS if table.get(key)}
    for key, path in found.items():
        if not Path(path).is_file():
            raise ConfigError(f"{where}: {key}: {path} does not exist; give a PEM file")
    if ("certificate" in found) != ("key" in found):
        raise ConfigError(f"{where}: certificate: goes together with its key; give both")
    if "check_host_name" in table:
        found["check_host_name"] = _flag(table, "check_host_name", where)
        if not found["check_host_name"] and "ca_file" not in found:
            raise ConfigError(f"{where}: check_host_name: may be false only with a ca_file that says whom to believe")
    return found


def _check_tls(table: Mapping[str, Any], where: str, needed: str, *, is_secure: bool) -> None:
    if not is_secure and (idle := next((key for key in (*_TLS, "check_host_name") if key in table), None)):
        raise ConfigError(f"{where}: {idle}: has no effect without {needed}")


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table[key]
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key}: give true or false")
    return value


def _secret(table: Mapping[str, Any], key: str, where: str) -> Secret | None:
    file, variable = table.get(f"{key}_file"), table.get(f"{key}_env")
    if file and variable:
        raise ConfigError(f"{where}: {key}_file: give it or {key}_env, not both")
    if file:
        return Secret("file", str(file))
    return Secret("env", str(variable)) if variable else None


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        hint = " (or url for a DICOMweb service)" if key in _DICOM else ""
        raise ConfigError(f"{where}: {key}: is missing; give a text{hint}")
    return value.strip()


def _number(
    table: Mapping[str, Any], key: str, where: str, lowest: float, highest: float, *, whole: bool = False
) -> float:
    value = table.get(key)
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if value is None or not is_number or not lowest <= value <= highest:
        kind = "whole number" if whole else "number"
        raise ConfigError(f"{where}: {key}: give a {kind} from {lowest:g} to {highest:g}")
    return float(value)


def _unknown(key: str, allowed: set[str], *, is_web: bool) -> str:
    if key in ("password", "token"):
        return f"secrets do not stand here; name a file ({key}_file) or a variable ({key}_env) that has it"
    if key in _DICOM | _WEB:
        kind = "DICOMweb destination (url)" if is_web else "DICOM destination (ae_title, host, port)"
        return f"does not belong to a {kind}"
    close = difflib.get_close_matches(key, allowed, n=1)
    return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known: {', '.join(sorted(allowed))}"
