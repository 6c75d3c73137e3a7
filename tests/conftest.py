"""What every test may use. Fixtures of real services live in `services/`, one file per service."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import DATA_ENV, require_data

pytest_plugins: list[str] = []
for _name in ("orthanc", "postgres", "redis", "dcmtk", "s3"):
    if (Path(__file__).parent / "services" / f"{_name}.py").exists():
        pytest_plugins.append(f"services.{_name}")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real, openly licensed series (not part of the repository; see `tests/README.md`)."""
    return require_data()


__all__ = ["DATA_ENV"]
