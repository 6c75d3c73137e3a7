"""Sends every series (or study) that Orthanc holds completely to imaging-ai, by C-STORE. Runs inside Orthanc.

Needs Orthanc with its Python plugin, and nothing but Python's standard library. Settings come from the section
"ImagingAI" of Orthanc's configuration, or from the environment, which wins:

    "ImagingAI": {"Modality": "ai", "Level": "Series", "Skip": ["SEG", "SR"], "Metadata": 5120}
    IMAGING_AI_MODALITY, IMAGING_AI_LEVEL, IMAGING_AI_SKIP (separated by commas), IMAGING_AI_METADATA

What was sent is remembered as a digest in a metadata of the series, so that the same instances go once, also after a
restart; instances that come later make it go again. A transfer that fails is tried again, with growing pauses.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orthanc  # provided by the plugin

#: Results, and what no model reads: sending them would make a result's arrival a new input, for ever.
SKIPPED = ("SEG", "SR", "KO", "PR", "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "FID", "AU", "HC")

FIRST_PAUSE, LONGEST_PAUSE, GIVE_UP_AFTER = 5.0, 300.0, 24 * 3600.0


class Settings:
    """What the administrator chose."""

    def __init__(self, configuration: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        section = configuration.get("ImagingAI", {})
        self.modality = environment.get("IMAGING_AI_MODALITY") or section.get("Modality", "ai")
        self.level = (environment.get("IMAGING_AI_LEVEL") or section.get("Level", "Series")).capitalize()
        skip = environment.get("IMAGING_AI_SKIP")
        self.skip = frozenset(skip.split(",") if skip else section.get("Skip", SKIPPED))
        self.metadata = int(environment.get("IMAGING_AI_METADATA") or section.get("Metadata", 5120))
        if self.level not in ("Series", "Study"):
            raise ValueError(f"ImagingAI.Level is {self.level!r}; set it to Series or Study")
        if self.metadata < 1024:
            raise ValueError(f"ImagingAI.Metadata is {self.metadata}; numbers below 1024 belong to Orthanc")


@dataclass(frozen=True)
class Errand:
    """A series or study that became stable at `since`, and when to try it next."""

    resource: str
    since: float
    due: float
    pause: float = FIRST_PAUSE


class Router:
    """Decides what goes, and sees it through in a thread of its own: callbacks must return at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stable: queue.Queue[Errand] = queue.Queue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imaging-ai", daemon=True)

    def on_change(self, change: int, _level: int, resource: str) -> None:
        """Take one of Orthanc's change events."""
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            self._thread.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._stopping.set()
            self._thread.join(5.0)
        elif change == getattr(orthanc.ChangeType, f"STABLE_{self._settings.level.upper()}"):
            now = time.monotonic()
            self._stable.put(Errand(resource, since=now, due=now))

    def _run(self) -> None:
        waiting: list[Errand] = []
        while not self._stopping.wait(0.1):
            while not self._stable.empty():
                waiting.append(self._stable.get())
            now = time.monotonic()
            due = [errand for errand in waiting if errand.due <= now]
            waiting = [errand for errand in waiting if errand.due > now]
            for errand in due:
                if not self._try(errand.resource):
                    waiting += self._later(errand)

    def _later(self, errand: Errand) -> list[Errand]:
        now = time.monotonic()
        if now - errand.since > GIVE_UP_AFTER:
            orthanc.LogError(f"imaging-ai: {errand.resource} is given up; send it to {self._settings.modality} by hand")
            return []
        return [Errand(errand.resource, errand.since, now + errand.pause, min(2 * errand.pause, LONGEST_PAUSE))]

    def _try(self, resource: str) -> bool:
        try:
            series = self._new_series(resource)
            if series:
                self._send(series)
        except Exception as error:  # noqa: BLE001 - the edge: a thread that dies would stop all routing, silently
            orthanc.LogWarning(f"imaging-ai: {resource} did not go to {self._settings.modality}: {error}")
            return False
        return True

    def _new_series(self, resource: str) -> dict[str, str]:
        """Return {Orthanc's id: digest} of the series that are to go and have not gone as they are now."""
        ids = [resource] if self._settings.level == "Series" else _get(f"/studies/{resource}")["Series"]
        found = {}
        for series in ids:
            known = _get(f"/series/{series}")
            if known["MainDicomTags"].get("Modality", "") in self._settings.skip or self._came_from_there(series):
                continue
            digest = hashlib.sha256("\n".join(sorted(known["Instances"])).encode()).hexdigest()
            if digest != self._sent_digest(series):
                found[series] = digest
        return found

    def _came_from_there(self, series: str) -> bool:
        """Say whether the modality itself sent it: maps and pictures have a Modality that others have, too."""
        sender = self._metadata(series, "RemoteAET")
        return bool(sender) and sender == _get(f"/modalities/{self._settings.modality}/configuration")["AET"]

    def _sent_digest(self, series: str) -> str:
        return self._metadata(series, str(self._settings.metadata))

    def _metadata(self, series: str, name: str) -> str:
        path = f"/series/{series}/metadata"
        if name not in _get(path):
            return ""
        answer = orthanc.RestApiGet(f"{path}/{name}")
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def _send(self, series: Mapping[str, str]) -> None:
        body = json.dumps({"Resources": sorted(series), "Synchronous": False})
        job = json.loads(orthanc.RestApiPost(f"/modalities/{self._settings.modality}/store", body.encode()))["ID"]
        while (state := _get(f"/jobs/{job}")["State"]) in ("Pending", "Running", "Paused", "Retry"):
            if self._stopping.wait(0.2):
                return
        if state != "Success":
            raise RuntimeError(f"job {job} ended as {state}")
        for identifier, digest in series.items():
            orthanc.RestApiPut(f"/series/{identifier}/metadata/{self._settings.metadata}", digest.encode())
        orthanc.LogInfo(f"imaging-ai: {len(series)} series sent to {self._settings.modality}")


def _get(path: str) -> Any:
    return json.loads(orthanc.RestApiGet(path))


orthanc.RegisterOnChangeCallback(Router(Settings(json.loads(orthanc.GetConfiguration()), os.environ)).on_change)
