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
from typing import Any, get_args

import msgspec

from imaging_ai.config import secrets
from imaging_ai.config.secrets import insert_passwords, refuse_secrets
from imaging_ai.config.sections import (
    AuditSettings,
    AuthSettings,
    BrokerSettings,
    DatabaseSettings,
    DicomSettings,
    HttpSettings,
    LogSettings,
    ModelSettings,
    PeerSettings,
    RoutingSettings,
    StorageSettings,
    WorkerSettings,
)
from imaging_ai.errors import ConfigError

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "load", "masked", "shipped_models"]

ENVIRONMENT_PREFIX = "IMAGING_AI_"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. `rules`, `destinations` and `retention` are checked where they are used."""

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
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    rules: tuple[dict[str, Any], ...] = ()
    destinations: tuple[dict[str, Any], ...] = ()
    retention: tuple[dict[str, Any], ...] = ()
    peers: tuple[PeerSettings, ...] = ()
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
    def audit_key_path(self) -> Path:
        """The keys that seal the audit trail."""
        return Path(self.audit.key_file or self.data_path / "audit.key").expanduser().absolute()

    @property
    def audit_anchor_path(self) -> Path:
        """Where the end of the audit trail is anchored."""
        return Path(self.audit.anchor or self.data_path / "audit.anchor").expanduser().absolute()

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
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "shipped_models", package.parents[1] / "models")
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
    refuse_secrets(tree, str(path))
    _overlay(tree, environment)
    insert_passwords(tree, str(path or "environment"))
    try:
        settings = msgspec.convert({**tree, "source": str(path or "")}, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{_origin(str(error), path, environment)}: {_plain(str(error))}") from None
    if settings.auth.mode == "off" and not _is_loopback(settings.http.host):
        raise ConfigError(
            f'{path or "environment"}: http.host = {settings.http.host!r}: with auth.mode = "off" nobody has to '
            'prove who they are, and only this machine is served; set http.host to 127.0.0.1, or auth.mode to "token"'
        )
    return settings


def masked(settings: Settings) -> dict[str, Any]:
    """Return the settings as a plain tree with passwords in URLs and tokens hidden, for `config show`."""
    return {key: secrets.masked(key, value) for key, value in msgspec.to_builtins(settings).items()}


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
