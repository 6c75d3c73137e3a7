"""Fetching bundles as MONAI does: from its Model Zoo, from another of the sources that it knows, or from an address."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, get_args
from urllib.error import URLError
from zipfile import BadZipFile

from imaging_ai.errors import BundleInvalid, UnavailableError

__all__ = ["SOURCES", "Source", "fetch"]

Source = Literal["monaihosting", "huggingface_hub", "github", "ngc"]
SOURCES: tuple[str, ...] = get_args(Source)


def fetch(
    name: str, folder: Path, *, version: str = "", source: Source = "monaihosting", repo: str = "", url: str = ""
) -> Path:
    """Download the bundle `name` into `folder` and return where it lies; `url` (of a ZIP file) beats the source.

    Raises
    ------
    UnavailableError
        If it cannot be had from there.
    BundleInvalid
        If what came is no bundle of that name.
    """
    from monai.bundle.scripts import download

    for talkative in ("monai.bundle.scripts", "monai.apps.utils"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)  # what is worth saying is raised
    where = url or source
    try:
        download(
            name=name,
            version=version or None,
            bundle_dir=folder,
            source=source,
            repo=repo or None,
            url=url or None,
            progress=False,
        )
    except (URLError, OSError, RuntimeError) as error:
        raise UnavailableError(f"{name} could not be fetched from {where}: {_line(error)}") from error
    except (ValueError, KeyError, BadZipFile) as error:  # an answer that is none, or a version that is not there
        raise BundleInvalid(f"{name} from {where}: {_line(error)}") from error
    found = sorted(folder.glob("*/configs/inference.*")) + sorted(folder.glob("configs/inference.*"))
    if not found:
        raise BundleInvalid(f"what came from {where} is no bundle: it has no configs/inference.json or .yaml")
    return found[0].parent.parent


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
