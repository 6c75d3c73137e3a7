"""Secrets come from files or from the environment, never from the settings file, and are never shown.

A settings file is copied, mailed and kept in version control; so one that holds a secret is refused, with the remedy.
"""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from imaging_ai.errors import ConfigError

__all__ = ["insert_passwords", "masked", "read_secret", "refuse_secrets"]

_log = logging.getLogger(__name__)

_WORDS = r"password|passwd|passphrase|token|secret|api_?key|access_key"
_SECRET_KEY = re.compile(rf"(.*_)?({_WORDS})", re.IGNORECASE)
_IN_URL = re.compile(r"(://[^:/@\s]*):([^@/\s]+)@")
_IN_QUERY = re.compile(rf"([?&][^=&\s]*(?:{_WORDS}|signature|credential)[^=&\s]*=)([^&\s]+)", re.IGNORECASE)
#: Keys that name where a secret is.
_PLACES = re.compile(r".*_(file|env)")
_REMEDIES = {
    "database": "put it into a file that database.password_file names, or the whole URL into IMAGING_AI_DATABASE_URL",
    "broker": "put it into a file that broker.password_file names, or the whole URL into IMAGING_AI_BROKER_URL",
    "storage": "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the file that "
    "AWS_SHARED_CREDENTIALS_FILE names",
    "destinations": "name a file (password_file, token_file) or a variable (password_env, token_env) that has it",
}


def refuse_secrets(tree: Mapping[str, Any], where: str) -> None:
    """Refuse a settings file, parsed, that holds a secret.

    Raises
    ------
    ConfigError
        If there is one; it names the key and the remedy, and not the secret.
    """
    for top, value in tree.items():
        if top == "rules":  # DICOM keywords, not ours
            continue
        if (place := _find(top, top, value)) is not None:
            remedy = _REMEDIES.get(top, "put it into a file, or into the environment")
            raise ConfigError(f"{where}: {place}: holds a secret, and a settings file must not; {remedy}")


def insert_passwords(tree: Mapping[str, Any], where: str) -> None:
    """Put the passwords of `password_file` into the URLs of database and broker.

    Raises
    ------
    ConfigError
        If a file cannot be read or is empty, or has nowhere to go.
    """
    for section in ("database", "broker"):
        table = tree.get(section)
        file = table.get("password_file") if isinstance(table, dict) else None
        if not isinstance(table, dict) or not isinstance(file, str) or not file:
            continue
        url = urlsplit(str(table.get("url", "")))
        if not url.hostname or url.password:
            problem = f"needs a {section}.url that names a server and has no password of its own"
            raise ConfigError(f"{where}: {section}.password_file: {problem}")
        address = url.netloc.rpartition("@")[2]
        user = quote(url.username or "", safe="%")
        table["url"] = urlunsplit(
            url._replace(
                netloc=f"{user}:{quote(read_secret(file, f'{where}: {section}.password_file'), safe='')}@{address}"
            )
        )


def masked(key: str, value: Any) -> Any:
    """Return a value of the settings as it may be shown: secrets as ``***``, in URLs too."""
    if isinstance(value, Mapping):
        return {name: masked(name, inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(key, inner) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    if _is_secret(key):
        return "***"
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", value))


def _find(place: str, key: str, value: Any) -> str | None:
    """Return where in a value there is a secret."""
    if isinstance(value, Mapping):
        found = (_find(f"{place}.{name}", name, inner) for name, inner in value.items())
    elif isinstance(value, list | tuple):
        found = (_find(f"{place}[{number}]", key, inner) for number, inner in enumerate(value, 1))
    else:
        is_secret = isinstance(value, str) and (_is_secret(key) or _IN_URL.search(value) or _IN_QUERY.search(value))
        return place if value and is_secret else None
    return next((one for one in found if one is not None), None)


def _is_secret(key: str) -> bool:
    return _SECRET_KEY.fullmatch(key) is not None and _PLACES.fullmatch(key) is None


def read_secret(file: str, where: str) -> str:
    """Return the secret that a file holds, "" when none is named. `where` names the key in messages.

    Raises
    ------
    ConfigError
        If the file cannot be read or is empty.
    """
    if not file:
        return ""
    path = Path(file).expanduser()
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{where}: {file} cannot be read ({reason})") from None
    if not text:
        raise ConfigError(f"{where}: {file} is empty; write the secret into it")
    if mode & stat.S_IROTH:
        _log.warning("the secret file %s can be read by everybody on this machine; chmod 600 it", file)
    return text
