"""A small CT and what was found on it."""

from __future__ import annotations

import pytest

import encoded
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject


@pytest.fixture(scope="session")
def volume() -> Volume:
    """A CT of eight planes; its frames are no whole number of bytes."""
    return encoded.phantom_volume((8, 11, 9))


@pytest.fixture(scope="session")
def objects(volume: Volume) -> dict[str, EncodedObject]:
    """Every kind of object of that CT."""
    return encoded.encode_all(volume)
