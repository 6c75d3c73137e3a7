"""The settings: one TOML file and the environment, as frozen values. Only `wiring` and `cli` read them.

Every key can be set as ``IMAGING_AI_<SECTION>_<KEY>`` (lists separated by commas), and the environment
wins over the file. An error names where the value came from, the key, and what to do.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from imaging_ai.errors import ConfigError

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "load", "masked", "shipped_models"]

ENVIRONMENT_PREFIX = "IMAGING_AI_"

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
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


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The web server."""

    host: str = "127.0.0.1"
    port: Port = 8080
    processes: Count = 1
    public_url: str = ""
    cors_origins: tuple[str, ...] = ()
    tls_certificate: str = ""
    tls_key: str = ""
    viewer: str = ""


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may use the web server: whoever has a token, or (`off`, only on loopback) everyone on this machine."""

    mode: Literal["off", "token"] = "off"


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ledger; empty means SQLite in the data directory."""

    url: str = ""


class BrokerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The doorbell: `embedded` (one machine) or `redis://…`."""

    url: str = "embedded"


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where objects lie (empty: a folder in the data directory; or `s3://bucket/prefix?endpoint=…`)."""

    url: str = ""
    on_conflict: Literal["keep-first", "replace"] = "keep-first"
    min_free_mb: Annotated[int, Meta(ge=0)] = 512
    orphan_hours: Annotated[float, Meta(ge=0)] = 24.0


class RoutingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a series counts as complete, in seconds (see docs/routing.md)."""

    quiet_seconds: Annotated[float, Meta(ge=0)] = 2.0
    silence_seconds: Positive = 10.0


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker serves and how far a job may go."""

    queues: tuple[Queue, ...] = ("route", "inference-cpu", "inference-gpu", "delivery")
    slots: Count = 1
    device: str = "auto"
    threads: Annotated[int, Meta(ge=0)] = 0
    warm_up: bool = True
    lease_seconds: Positive = 30.0
    max_attempts: Count = 3
    time_limit: Positive = 3600.0
    memory_limit_mb: Annotated[int, Meta(ge=0)] = 0
    grace_seconds: Positive = 20.0


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where bundles are looked for (after the data directory's `models` and before the shipped ones)."""

    folders: tuple[str, ...] = ()
    memory_mb: Count = 4096
    allow_scripts: bool = False
    shipped: bool = True


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    style: Literal["text", "json"] = "text"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. `rules` and `destinations` are checked where they are used."""

    data_dir: str = "./data"
    dicom: DicomSettings = DicomSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    storage: StorageSettings = StorageSettings()
    routing: RoutingSettings = RoutingSettings()
    worker: WorkerSettings = WorkerSettings()
    models: ModelSettings = ModelSettings()
    log: LogSettings = LogSettings()
    rules: tuple[dict[str, Any], ...] = ()
    destinations: tuple[dict[str, Any], ...] = ()
    #: The file these settings came from, for error messages; "" when there is none.
    source: str = ""

    @property
    def data_path(self) -> Path:
        """The data directory, absolute."""
        return Path(self.data_dir).expanduser().absolute()

    @property
    def run_path(self) -> Path:
        """Sockets and lock files of live processes on this host."""
        return self.data_path / "run"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.database.url or f"sqlite:///{self.data_path / 'imaging-ai.db'}"

    @property
    def storage_url(self) -> str:
        """The URL of the object storage."""
        return self.storage.url or f"file://{self.data_path / 'objects'}"

    @property
    def viewer_path(self) -> Path:
        """Where OHIF is installed: beside the program, unless the settings say otherwise."""
        folder = self.http.viewer or str(Path(sys.prefix) / "share" / "imaging-ai" / "viewer")
        return Path(folder).expanduser().absolute()

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Folders of bundles, the first that holds a name wins."""
        folders = [self.data_path / "models", *(Path(folder).expanduser().absolute() for folder in self.models.folders)]
        if self.models.shipped and (shipped := shipped_models()) is not None:
            folders.append(shipped)
        return tuple(folders)


def shipped_models() -> Path | None:
    """Return the folder of the bundles that come with the program."""
    here = Path(__file__).resolve()
    candidates = (here.parent / "shipped_models", here.parents[2] / "models")
    return next((folder for folder in candidates if folder.is_dir()), None)


def load(path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `path` (or ``$IMAGING_AI_CONFIG``, or nothing) and the environment.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a key or value is wrong.
    """
    environment = os.environ if environment is None else environment
    path = path or environment.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None
    tree = _read_file(Path(path)) if path else {}
    _check_keys(tree, str(path))
    _overlay(tree, environment)
    try:
        settings = msgspec.convert({**tree, "source": str(path or "")}, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{_origin(str(error), path, environment)}: {_plain(str(error))}") from None
    if not _is_loopback(settings.http.host):
        raise ConfigError(
            f"{path or 'environment'}: http.host = {settings.http.host!r}: the web server has no authentication yet "
            "and serves loopback only; set it to 127.0.0.1 and put an authenticating proxy in front"
        )
    return settings


def masked(settings: Settings) -> dict[str, Any]:
    """Return the settings as a plain tree with passwords in URLs and tokens hidden, for `config show`."""
    tree = msgspec.to_builtins(settings)
    return {key: _mask(key, value) for key, value in tree.items()}


def _mask(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mask(name, inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(key, inner) for inner in value]
    if re.search(r"password|token|secret", key) and value:
        return "***"
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", value) if isinstance(value, str) else value


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def _sections() -> dict[str, type[msgspec.Struct]]:
    return {
        field.name: field.type
        for field in msgspec.structs.fields(Settings)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    }


def _check_keys(tree: Mapping[str, Any], where: str) -> None:
    sections = _sections()
    known_top = {field.name for field in msgspec.structs.fields(Settings)} - {"source"}
    for key, value in tree.items():
        if key not in known_top:
            raise ConfigError(f"{where}: {key}: unknown key{_nearest(key, known_top)}")
        if key in sections and isinstance(value, Mapping):
            known = set(sections[key].__struct_fields__)
            for inner in value:
                if inner not in known:
                    raise ConfigError(f"{where}: {key}.{inner}: unknown key{_nearest(inner, known)}")


def _nearest(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"


def _overlay(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    if value := environment.get(f"{ENVIRONMENT_PREFIX}DATA_DIR"):
        tree["data_dir"] = value
    for section, struct in _sections().items():
        for field in msgspec.structs.fields(struct):
            value = environment.get(_variable(section, field.name))
            if value is not None:
                inner = tree.setdefault(section, {})
                is_list = tuple in (field.type, getattr(field.type, "__origin__", None)) or get_args(field.type)[
                    1:
                ] == (...,)
                inner[field.name] = [part.strip() for part in value.split(",") if part.strip()] if is_list else value


def _variable(section: str, key: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()


def _origin(message: str, path: str | Path | None, environment: Mapping[str, str]) -> str:
    match = re.search(r"\$\.(\w+)\.(\w+)", message)
    if match and (variable := _variable(match[1], match[2])) in environment:
        return variable
    return str(path or "environment")


def _plain(message: str) -> str:
    text, _, where = message.partition(" - at `$.")
    return f"{where.rstrip('`')}: {text}" if where else text


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
