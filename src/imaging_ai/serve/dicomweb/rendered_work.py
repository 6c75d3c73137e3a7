"""The work of rendering: instances opened, frames rendered, as many at once as there are cores.

What was opened and rendered last is kept: several look at the same images, and again at the same study's thumbnail.
Threads of its own kind do it, so that a burst of images does not keep searches waiting; large frames are rendered one
at a time, so that memory stays bounded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

from imaging_ai.archive.document import Document
from imaging_ai.archive.retrieve import Retriever
from imaging_ai.core.blob import BlobRef
from imaging_ai.core.instance import StoredInstance
from imaging_ai.errors import BadParameterError, NotAcceptable, NotFound, TooLarge
from imaging_ai.render.elements import count, number, text
from imaging_ai.render.formats import encode, encode_moving
from imaging_ai.render.overlay import draw_over, is_laid_over, lies_on, made_of
from imaging_ai.render.picture import draw, tile
from imaging_ai.render.profiles import in_profile
from imaging_ai.render.report import as_html, as_text
from imaging_ai.render.source import Decoded, Source, open_source
from imaging_ai.render.wish import Picture, Wish
from imaging_ai.serve.dicomweb.native import to_xml
from imaging_ai.serve.dicomweb.parts import Parts
from imaging_ai.serve.dicomweb.recent import Recent
from imaging_ai.serve.eager import in_a_thread

__all__ = ["Rendering"]

Result = TypeVar("Result")

_KEPT_OPEN_BYTES = 8 << 20  # of the documents of instances
_KEPT_FRAMES_BYTES = 128 << 20
_KEPT_IMAGES_BYTES = 48 << 20
_LARGE = 1 << 22
_MOST_MOVING_PIXELS = 1 << 26
_TEXT = {"text/html": as_html, "text/plain": as_text, "text/xml": to_xml}
_WITHOUT_PROFILES = ("image/gif", "image/jp2")


class Rendering:
    """Renders the instances of one archive."""

    def __init__(self, parts: Parts) -> None:
        self.retriever = Retriever(parts.database, parts.archive.store, parts.describer)
        self._describer = parts.describer
        self._cores, self._busy = os.cpu_count() or 1, 0
        self._threads = ThreadPoolExecutor(self._cores + 1, "rendering")
        self._large, self._counting = threading.Lock(), threading.Lock()
        self._sources = Recent[BlobRef, Source](_KEPT_OPEN_BYTES, part=2)  # a thousand frames say a lot
        self._frames = Recent[tuple[BlobRef, int], Decoded](_KEPT_FRAMES_BYTES)
        self._images = Recent[tuple[BlobRef, int, str, Wish], bytes](_KEPT_IMAGES_BYTES)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run work in a thread of its kind."""
        return await in_a_thread(self._threads, partial(self._counted, work))

    def _counted(self, work: Callable[[], Result]) -> Result:
        with self._counting:
            self._busy += 1
        try:
            return work()
        finally:
            with self._counting:
                self._busy -= 1

    async def each(self, results: Iterator[Result]) -> AsyncGenerator[Result]:
        """Give results one by one, each made in such a thread when it is wanted."""
        end = object()
        while (result := await self.run(lambda: next(results, end))) is not end:
            yield result  # type: ignore[misc]

    def open(self, stored: StoredInstance) -> Source:
        """Open an instance."""
        return self._opened(stored, lambda: self._describer.document_of(stored))

    async def find(self, study: str, series: str, instance: str) -> tuple[StoredInstance, Source]:
        """Look one instance up and open it. Raises `NotFound`, or `Gone` when it was deleted.

        What is open already is there sooner than a thread would wake.
        """
        if (there := self.open_already(study, series, instance)) is not None:
            return there
        return await self.run(lambda: self.found(study, series, instance))

    def open_already(self, study: str, series: str, instance: str) -> tuple[StoredInstance, Source] | None:
        """Return an instance that is open, if nothing waits for the index."""
        listed = self.retriever.one_at_once(study, series, instance)
        source = self._sources.get(listed.instance.blob) if listed else None
        return (listed.instance, source) if listed and source else None

    def found(self, study: str, series: str, instance: str) -> tuple[StoredInstance, Source]:
        """Look one instance up and open it, in a thread of its kind. Raises as `find`."""
        found = self._describer.find(instance)
        if found is None or (found[0].study_instance_uid, found[0].series_instance_uid) != (study, series):
            stored = self.retriever.one(study, series, instance).instance  # says what is wrong, mostly
            return stored, self.open(stored)
        return found[0], self._opened(*found)

    def _opened(self, stored: StoredInstance, document: Callable[[], Document]) -> Source:
        if (source := self._sources.get(stored.blob)) is None:
            source = open_source(
                self.retriever.checked(stored, document()), partial(self.retriever.bytes_of, stored), stored.blob.length
            )
            source = replace(source, recall=partial(self._recall, stored.blob))
            if not source.inflated:
                self._sources.keep(stored.blob, source, len(source.document.json))
        return source

    def _recall(self, blob: BlobRef, frame_number: int, make: Callable[[], Decoded]) -> Decoded:
        """Decode a frame unless it is kept: who moves a window asks for the same ones again and again."""
        if (kept := self._frames.get((blob, frame_number))) is None:
            kept = make()
            self._frames.keep((blob, frame_number), kept, kept[0].nbytes)
        return kept

    async def image_soon(
        self, stored: StoredInstance, source: Source, frame_number: int, media_type: str, wish: Wish
    ) -> bytes:
        """Return one frame as an image file, from a thread unless it is kept."""
        if (kept := self.made_already(stored, source, frame_number, media_type, wish)) is not None:
            return kept
        return await self.run(lambda: self.image(stored, source, frame_number, media_type, wish))

    def made_already(
        self, stored: StoredInstance, _source: Source, frame_number: int, media_type: str, wish: Wish
    ) -> bytes | None:
        """Return an image file that is kept."""
        return self._images.get((stored.blob, frame_number, media_type, wish))

    def image(self, stored: StoredInstance, source: Source, frame_number: int, media_type: str, wish: Wish) -> bytes:
        """Return one frame as an image file."""
        if wish.icc_profile not in ("", "no") and media_type in _WITHOUT_PROFILES:
            raise BadParameterError("iccprofile", f"no profile is put into {media_type}")
        key = (stored.blob, frame_number, media_type, wish)
        if (image := self._images.get(key)) is None:
            image = self._image(stored, source, frame_number, media_type, wish)
            if not is_laid_over(source):  # nobody finds what lies below in here, when it is deleted
                self._images.keep(key, image, len(image))
        return image

    def _image(self, stored: StoredInstance, source: Source, frame_number: int, media_type: str, wish: Wish) -> bytes:
        pixels = count(source.elements, "Rows") * count(source.elements, "Columns")
        with self._large if pixels > _LARGE else nullcontext():
            picture, profile = in_profile(self._drawn(stored, source, frame_number, wish), source, wish.icc_profile)
            return encode(
                picture,
                media_type,
                quality=wish.quality,
                icc_profile=profile,
                threads=self._threads,
                at_once=self._cores - self._busy + 1,
            )

    def _drawn(self, stored: StoredInstance, source: Source, frame_number: int, wish: Wish) -> Picture:
        """Render a frame, over its source image where it is one that is shown so and the image is here."""
        for uid, image_number in made_of(source, frame_number):
            try:
                found = self._describer.find(uid)
                if found is None or found[0].study_instance_uid != stored.study_instance_uid:
                    continue
                image = self._opened(*found)
                if lies_on(source, frame_number, image, image_number):
                    return draw_over(source, frame_number, image, image_number, wish)
            except (NotAcceptable, NotFound, TooLarge):
                continue  # then without that image
        return draw(source, frame_number, wish)

    def tile(self, source: Source, media_type: str, wish: Wish) -> bytes:
        """Return an image that says of which modality something is that has no image."""
        return encode(tile(text(source.elements, "Modality"), wish), media_type)

    def moving(self, stored: StoredInstance, source: Source, wish: Wish) -> bytes:
        """Return all frames as one GIF that moves.

        Raises
        ------
        TooLarge
            If there is too much to hold; the frames can be had one by one.
        """
        if wish.icc_profile not in ("", "no"):
            raise BadParameterError("iccprofile", "no profile is put into image/gif")
        first = self._drawn(stored, source, 1, wish)
        if first.shape[0] * first.shape[1] * source.frame_count > _MOST_MOVING_PIXELS:
            raise TooLarge("too many pixels for one moving image: ask for single frames, or for a smaller viewport")
        with self._large:
            pictures = (self._drawn(stored, source, n, wish) for n in range(1, source.frame_count + 1))
            return encode_moving(pictures, _duration(source))

    def report(self, source: Source, media_type: str) -> bytes:
        """Return a structured report as text."""
        return _TEXT[media_type](source.elements)

    def document(self, source: Source) -> tuple[Iterator[bytes], int]:
        """Return the bytes of an encapsulated document in pieces, and how many there are."""
        offset, length = source.bulk_range("EncapsulatedDocument")
        if not length:
            data = source.bytes_of(source.elements, "EncapsulatedDocument")
            if not data:
                raise NotAcceptable("the instance has an empty document")
            return iter([data]), len(data)
        stated = count(source.elements, "EncapsulatedDocumentLength")
        if 0 < stated <= length:  # without the byte that pads it
            length = stated
        step = 1 << 20
        return (source.read(offset + at, min(step, length - at)) for at in range(0, length, step)), length


def _duration(source: Source) -> float:
    """Return how long each frame is shown, in milliseconds."""
    for keyword, of in (
        ("FrameTime", float),
        ("RecommendedDisplayFrameRate", lambda rate: 1000 / rate),
        ("CineRate", lambda rate: 1000 / rate),
    ):
        value = number(source.elements, keyword)
        if value is not None and value > 0:
            return min(of(value), 10_000.0)
    return 100.0
