"""`configs/metadata.json` of a MONAI bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imaging_ai.errors import ConfigError

__all__ = ["modality_of", "network_format", "read_metadata"]


def read_metadata(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{file}: {error}; it must be a JSON object") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a JSON object")
    return content


def network_format(metadata: dict[str, Any], side: str) -> dict[str, Any]:
    """Return the first input or output of `network_data_format`, empty when metadata does not tell."""
    formats = metadata.get("network_data_format")
    named = formats.get(side) if isinstance(formats, dict) else None
    first = next(iter(named.values()), None) if isinstance(named, dict) else None
    return first if isinstance(first, dict) else {}


def modality_of(metadata: dict[str, Any]) -> dict[str, Any]:
    modality = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT"}
    named = modality.get(str(network_format(metadata, "inputs").get("modality", "")).upper())
    return {"Modality": named} if named else {}
