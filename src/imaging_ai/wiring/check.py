"""Whether settings can be used, said at once and for all of them: nothing is connected to, and nothing is made."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from imaging_ai.audit.syslog import Receiver
from imaging_ai.config import Settings
from imaging_ai.core.identity import is_uid
from imaging_ai.errors import ConfigError
from imaging_ai.keeping.retention import parse_retention
from imaging_ai.queue.broker import make_broker
from imaging_ai.wiring.parts import make_identity, make_keys, make_provider, make_rules, networks
from imaging_ai.wiring.receive import make_dicom_tls, make_peers
from imaging_ai.wiring.web import make_proxies

__all__ = ["check_settings"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_settings(settings: Settings) -> None:
    """Say what cannot be used in the settings.

    Raises
    ------
    ConfigError
        If something cannot; it names file, key and remedy.
    """
    where = settings.source or "settings"
    _check_receiver(settings, where)
    _check_web(settings, where)
    _check_places(settings, where)
    make_rules(settings)
    make_keys(settings)
    parse_retention(settings.retention, where)
    if not _DEVICE.fullmatch(settings.worker.device):
        raise ConfigError(f"{where}: worker.device is {settings.worker.device!r}; give auto, cpu, cuda or cuda:N")
    if settings.audit.syslog:
        Receiver.parse(settings.audit.syslog, settings.audit.syslog_ca_file, settings.audit.syslog_certificate)


def _check_receiver(settings: Settings, where: str) -> None:
    make_peers(settings)
    make_dicom_tls(settings)
    networks(settings.dicom.addresses, f"{where}: dicom.addresses")
    if wrong := next((uid for uid in settings.dicom.sop_classes if not is_uid(uid)), None):
        raise ConfigError(f"{where}: dicom.sop_classes: {wrong!r} is no UID")


def _check_web(settings: Settings, where: str) -> None:
    http = settings.http
    make_provider(settings)
    make_proxies(settings)
    make_identity(http.tls_certificate, http.tls_key, f"{where}: http.tls_certificate")
    for key in ("tls_certificate", "tls_key", "tls_ca_file"):
        file = getattr(http, key)
        if file and not Path(file).expanduser().is_file():
            raise ConfigError(f"{where}: http.{key}: {file} does not exist; give a PEM file")
    if http.public_url and not _is_address(http.public_url):
        raise ConfigError(f"{where}: http.public_url is {http.public_url!r}; give it as https://pacs.example")
    for origin in http.cors_origins:
        if not _is_address(origin) or urlsplit(origin).path:
            raise ConfigError(f"{where}: http.cors_origins: {origin!r} is no origin; give it as https://viewer.example")


def _check_places(settings: Settings, where: str) -> None:
    make_broker(settings.broker.url, settings.run_path)
    try:
        kind = make_url(settings.database_url).get_backend_name()
    except ArgumentError:
        kind = ""
    if kind not in ("sqlite", "postgresql"):
        raise ConfigError(f"{where}: database.url: give postgresql://USER@HOST/DATABASE, or leave it out for SQLite")
    storage = settings.storage_url
    if urlsplit(storage).scheme == "s3":
        from imaging_ai.archive.s3 import open_s3_store

        open_s3_store(storage)
    elif urlsplit(storage).scheme not in ("", "file"):
        raise ConfigError(f"{where}: storage.url: give s3://BUCKET/PREFIX, a folder, or leave it out")
    for folder in settings.models.folders:
        if not Path(folder).expanduser().is_dir():
            raise ConfigError(f"{where}: models.folders: {folder} is no folder")


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname)
