"""A modality that never gives up: it notes which instances were acknowledged, and sends the others again."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.dsutils import encode

from phantoms import ball, series

__all__ = ["Modality", "Pushed", "phantom"]

#: Statuses by which a receiver may say "not now" (PS3.4 B.2.3).
_REFUSED_FOR_NOW = range(0xA700, 0xA800)


@dataclass
class Pushed:
    """A series on its way: what it is made of, and what of it was acknowledged with 0x0000."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    instances: list[Dataset] = field(repr=False)
    digests: dict[str, str] = field(default_factory=dict, repr=False)
    acknowledged: set[str] = field(default_factory=set, repr=False)
    resent: int = 0

    @property
    def complete(self) -> bool:
        return len(self.acknowledged) == len(self.digests)


def phantom(name: str, *, modality: str = "CT", slices: int = 6, size: int = 48) -> Pushed:
    """A series with a bright ball, its UIDs derived from `name`; 736 pixels a side are more than a megabyte a slice."""
    voxels = ball((slices, size, size), radius=6.0, spacing=(2.0, 1.0, 1.0))
    voxels += np.random.default_rng(len(name)).integers(0, 50, voxels.shape).astype(np.float32)
    datasets = series(voxels, modality=modality, name=name)
    pushed = Pushed(str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID), modality, datasets)
    for ds in datasets:
        data = encode(ds, is_implicit_vr=False, is_little_endian=True)
        assert data is not None
        pushed.digests[str(ds.SOPInstanceUID)] = hashlib.sha256(data).hexdigest()
    return pushed


class Modality:
    """Threads that push one series after the other, each to its last acknowledgement.

    `make(number)` makes the series; without `count` there is always another one until `finish`.
    """

    def __init__(
        self,
        ports: Sequence[int],
        make: Callable[[int], Pushed],
        *,
        count: int | None = None,
        threads: int = 3,
        pause: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.pushed: list[Pushed] = []
        self.unexpected: list[str] = []
        self.refused = self.lost = self.acknowledgements = 0
        self._ports, self._make, self._pause, self._seed = tuple(ports), make, pause, seed
        self._numbers = iter(itertools.count() if count is None else range(count))
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self._given_up = threading.Event()
        self._threads = [threading.Thread(target=self._push, args=(n,), daemon=True) for n in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self, timeout: float) -> None:
        """Begin no further series, and wait until every one is acknowledged."""
        self._enough.set()
        self.join(timeout)

    def join(self, timeout: float) -> None:
        """Wait until every series is acknowledged, and give up after so many seconds."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._given_up.set()

    def _push(self, number: int) -> None:
        rng = random.Random(f"modality {self._seed} {number}")
        while not self._enough.is_set():
            with self._lock:
                if (following := next(self._numbers, None)) is None:
                    return
                one = self._make(following)
                self.pushed.append(one)
            while not one.complete and not self._given_up.is_set():
                self._associate(one, rng)

    def _associate(self, one: Pushed, rng: random.Random) -> None:
        ae = AE("MODALITY")
        ae.connection_timeout = ae.acse_timeout = 10
        ae.dimse_timeout = ae.network_timeout = 40
        sop_class = {"CT": CTImageStorage, "MR": MRImageStorage}[one.modality]
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        assoc = ae.associate("127.0.0.1", rng.choice(self._ports), ae_title="IMAGINGAI")
        if not assoc.is_established:
            assoc.abort(block=False)
            time.sleep(0.1)
            return
        for ds in one.instances:
            uid = str(ds.SOPInstanceUID)
            if uid not in one.acknowledged and not self._store(assoc, ds, one):
                break
            time.sleep(rng.uniform(0, 2 * self._pause))
        if assoc.is_established:
            assoc.release()

    def _store(self, assoc: object, ds: Dataset, one: Pushed) -> bool:
        try:
            answer = assoc.send_c_store(ds)  # type: ignore[attr-defined]
        except RuntimeError:  # the association was lost before
            answer = Dataset()
        if "Status" not in answer:
            self.lost += 1
            one.resent += 1
            return False
        status = int(answer.Status)
        if status == 0x0000:
            one.acknowledged.add(str(ds.SOPInstanceUID))
            self.acknowledgements += 1
            return True
        one.resent += 1
        self.refused += 1
        if status not in _REFUSED_FOR_NOW:
            self.unexpected.append(f"0x{status:04X} {answer.get('ErrorComment', '')}")
        time.sleep(0.3)
        return False
