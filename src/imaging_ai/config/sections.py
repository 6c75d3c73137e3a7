"""The sections of the settings, each a frozen value with its defaults (docs/operations.md is their table)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from imaging_ai.core.permission import Role

__all__ = [
    "AuditSettings",
    "AuthSettings",
    "BrokerSettings",
    "DatabaseSettings",
    "DicomSettings",
    "HttpSettings",
    "LogSettings",
    "ModelSettings",
    "PeerSettings",
    "RoutingSettings",
    "StorageSettings",
    "WorkerSettings",
]

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Queue = Literal["route", "inference-cpu", "inference-gpu", "delivery"]


class DicomSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Storage SCP. Empty allow-lists let every peer in."""

    host: str = "127.0.0.1"
    port: Port = 11112
    ae_title: Annotated[str, Meta(min_length=1, max_length=16)] = "IMAGINGAI"
    check_called_ae_title: bool = True
    calling_ae_titles: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    max_associations: Count = 64
    max_object_mb: Count = 4096
    idle_timeout: Positive = 60.0
    artim_timeout: Positive = 15.0
    ack: Literal["synced", "received"] = "synced"
    data_path: Literal["fast", "plain"] = "fast"
    sop_classes: tuple[str, ...] = ()
    accept_unknown_sop_classes: bool = False
    processes: Count = 1
    share_port: bool = False
    tls_certificate: str = ""
    tls_key: str = ""
    tls_port: Port = 2762
    tls_ca_file: str = ""
    tls_require_certificate: bool = True


class PeerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[peers]]` table: who it is, what it may do, and how much (docs/network.md). 0 is no limit."""

    ae_title: Annotated[str, Meta(min_length=1, max_length=16)]
    addresses: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    may: tuple[Literal["echo", "store"], ...] = ("echo", "store")
    max_associations: Annotated[int, Meta(ge=0)] = 0
    instances_per_second: NotNegative = 0.0
    megabytes_per_second: NotNegative = 0.0
    gigabytes_per_day: NotNegative = 0.0


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The web server."""

    host: str = "127.0.0.1"
    port: Port = 8080
    processes: Count = 1
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tls_certificate: str = ""
    tls_key: str = ""
    tls_ca_file: str = ""
    viewer: str = ""
    requests_per_second: NotNegative = 0.0
    burst: Count = 1000
    gigabytes_per_day: NotNegative = 0.0


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may use the web server: who logs in or has a token, or (`off`, only on loopback) everyone on this machine.

    With an `oidc_issuer` people log in with that provider (docs/security.md).
    """

    mode: Literal["off", "token"] = "token"
    key_file: str = ""
    access_minutes: Positive = 5.0
    idle_minutes: Positive = 15.0
    session_hours: Positive = 12.0
    emergency_minutes: Positive = 60.0
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret_file: str = ""
    oidc_audience: str = ""
    oidc_scopes: tuple[str, ...] = ("openid", "profile")
    oidc_role_claim: str = "groups"
    oidc_roles: dict[str, Role] = {}
    oidc_ca_file: str = ""


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ledger; empty means SQLite in the data directory."""

    url: str = ""
    password_file: str = ""


class BrokerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The doorbell: `embedded` (one machine) or `redis://…`."""

    url: str = "embedded"
    password_file: str = ""


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where objects lie (empty: a folder in the data directory; or `s3://bucket/prefix?endpoint=…`), and their keys.

    With a key new objects are encrypted, unless `encrypt_new` says no; without one they are plain.
    """

    url: str = ""
    on_conflict: Literal["keep-first", "replace"] = "keep-first"
    min_free_mb: Annotated[int, Meta(ge=0)] = 512
    orphan_hours: Annotated[float, Meta(ge=0)] = 24.0
    encryption_key_file: str = ""
    encryption_key_service: str = ""
    encryption_token_file: str = ""
    encrypt_new: bool = True


class RoutingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a series counts as complete, in seconds (see docs/routing.md)."""

    quiet_seconds: Annotated[float, Meta(ge=0)] = 2.0
    silence_seconds: Positive = 10.0


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker serves and how far a job may go."""

    queues: tuple[Queue, ...] = ("route", "inference-cpu", "inference-gpu", "delivery")
    slots: Annotated[int, Meta(ge=0)] = 0
    device: str = "auto"
    threads: Annotated[int, Meta(ge=0)] = 0
    warm_up: bool = True
    lease_seconds: Positive = 30.0
    max_attempts: Count = 3
    time_limit: Positive = 3600.0
    memory_limit_mb: Annotated[int, Meta(ge=0)] = 0
    sandbox: Literal["strict", "best", "off"] = "best"
    grace_seconds: Positive = 20.0


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where bundles are looked for (after the data directory's `models` and before the shipped ones)."""

    folders: tuple[str, ...] = ()
    memory_mb: Count = 4096
    allow_scripts: bool = False
    shipped: bool = True


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What seals the audit trail, where its end is anchored (empty: in the data directory), where it is sent."""

    key_file: str = ""
    anchor: str = ""
    syslog: str = ""
    syslog_ca_file: str = ""
    syslog_certificate: str = ""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    style: Literal["text", "json"] = "text"
