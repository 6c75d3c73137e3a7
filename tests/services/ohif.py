"""OHIF in a real browser: opening a study and its series, and what its viewport shows, voxel by voxel.

Where a voxel of the source lies on the screen is asked of the viewport's own camera, through the library objects that
OHIF leaves in `window`; what is there is read from a screenshot.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

__all__ = ["Ohif", "Shown"]

PATIENCE = 120_000
#: The right edge of a viewport, in pixels: it changes as images are loaded.
SCROLL_BAR = 24
SIZE = {"width": 1280, "height": 800}

#: What OHIF complains of in every study, and is none of ours.
KNOWN = re.compile(
    r"hanging protocol|WebGL|GPU stall|prefetchInstanceFrames|React Router|Download the React|\[GroupMarker"
)

#: The viewport that the user looks at; thumbnails are drawn in viewports of their own.
_VIEWPORT = """
const viewport = () => {
  const active = window.services?.viewportGridService.getActiveViewportId();
  return window.cornerstone?.getEnabledElements().map((one) => one.viewport).find(({ id }) => id === active);
};
"""
_HAS = "([uid]) => viewport()?.getImageIds?.().some((id) => id.includes(`/instances/${uid}/`))"
_SHOWS = "([uid]) => viewport()?.getCurrentImageId?.()?.includes(`/instances/${uid}/`)"
_GO = """
async ([uid]) => {
  const shown = viewport();
  const index = (wanted) => shown.getImageIds().findIndex((id) => id.includes(`/instances/${wanted}/`));
  const now = shown.getCurrentImageId().split('/instances/')[1].split('/')[0];
  if (shown.setImageIdIndex) await shown.setImageIdIndex(index(uid));
  else {  // a volume: its images may be listed the other way round
    const steps = index(uid) - index(now);
    shown.scroll(steps);
    if (!shown.getCurrentImageId().includes(`/instances/${uid}/`)) shown.scroll(-2 * steps);
  }
  shown.render();
}
"""
_PLACES = "([points]) => points.map((point) => viewport().worldToCanvas(point))"
#: Where the first pixel lies, the next of its row, and the next of its column; also of an image without a position.
_CORNERS = """
() => {
  const { imageData } = viewport().getImageData();
  return [[0, 0, 0], [1, 0, 0], [0, 1, 0]].map((index) => Array.from(imageData.indexToWorld(index)));
}
"""
_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


def _with(script: str) -> str:
    return f"(given) => {{ {_VIEWPORT} return ({script})(given); }}"


@dataclass(frozen=True)
class Shown:
    """A screenshot of the page, with the place of every pixel in the image that the viewport shows."""

    pixels: NDArray[np.int16]
    #: Column and row of the source image at each pixel of the screen, and which pixels are of the viewport.
    columns: NDArray[np.float64]
    rows: NDArray[np.float64]
    inside: NDArray[np.bool_]

    def of(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where on the screen the pixels of a mask on the source image lie."""
        rows, columns = np.rint(self.rows).astype(int), np.rint(self.columns).astype(int)
        known = (rows >= 0) & (columns >= 0) & (rows < mask.shape[0]) & (columns < mask.shape[1]) & self.inside
        return known & mask[rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)]


class Ohif:
    """One page of the browser, on one study."""

    def __init__(self, browser: Browser, server: str, artefacts: Path) -> None:
        self.server, self.artefacts = server, artefacts
        context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        context.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.refused: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        self.page.on(
            "response", lambda one: self.refused.append(f"{one.status} {one.url}") if one.status > 399 else None
        )
        self.page.on("requestfailed", lambda one: self.refused.append(f"{one.failure} {one.url}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not KNOWN.search(message.text):
            self.complaints.append(message.text)

    def close(self) -> None:
        self.page.context.close()

    def open(self, study: str, mode: str = "viewer") -> None:
        """Open a study in a mode of OHIF, and wait until its first image is drawn and its series are listed."""
        self.page.goto(f"{self.server}/viewer/{mode}?StudyInstanceUIDs={study}")
        self.page.locator("canvas").first.wait_for()
        self.wait_for("() => viewport()?.getCurrentImageId?.()")
        self.series.first.wait_for()
        self.page.wait_for_load_state("networkidle")
        self.frame()

    @property
    def series(self) -> Locator:
        """The list of the study's series."""
        return self.page.locator('[data-cy="study-browser-thumbnail"], [data-cy="study-browser-thumbnail-no-image"]')

    @property
    def viewport(self) -> Locator:
        return self.page.locator('[data-cy="viewport-pane"]').first

    def show(self, description: str) -> None:
        """Double-click a series."""
        exactly = re.compile(rf"^\s*{re.escape(description)}\s*$")
        label = self.page.locator('[data-cy="series-description-label"]', has_text=exactly)
        self.series.filter(has=label).dblclick()

    def say(self, answer: str) -> None:
        """Answer the question whether to take an object over: yes or no."""
        self.page.locator(f'[data-cy="{answer}-hydrate-btn"]').click()

    def go_to(self, sop_instance_uid: str) -> None:
        """Scroll the viewport to the image of an instance."""
        self.wait_for(_HAS, sop_instance_uid)
        self.ask(_GO, sop_instance_uid)
        self.wait_for(_SHOWS, sop_instance_uid)
        self.frame()

    def image(self) -> str:
        """The address of the frame that the viewport shows."""
        return str(self.ask("() => viewport()?.getCurrentImageId?.() ?? ''"))

    def frame(self) -> None:
        """Wait until what was changed is drawn."""
        self.page.evaluate(_FRAME)

    def ask(self, script: str, *arguments: Any) -> Any:
        """Ask the page, with `viewport()` at hand."""
        return self.page.evaluate(_with(script), list(arguments))

    def wait_for(self, script: str, *arguments: Any) -> None:
        """Wait until the page answers with something true."""
        self.page.wait_for_function(_with(script), arg=list(arguments))

    def wait_for_silence(self) -> None:
        """Wait until OHIF has said what it wanted to say: its messages lie over the images."""
        self.wait_for("() => !document.querySelector('[data-sonner-toast]')")

    def picture(self, name: str = "") -> NDArray[np.int16]:
        """What is on the screen; kept under a name."""
        data = self.page.screenshot()
        if name:  # Playwright would write it in a thread that stays
            (self.artefacts / f"{name}.png").write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)

    def places(self, points: Any, *, on_page: bool = True) -> list[list[float]]:
        """Where points of the patient lie on the page, or on the canvas of the viewport."""
        found = self.ask(_PLACES, [[float(value) for value in point] for point in points])
        left, top, _, _ = self._box() if on_page else (0, 0, 0, 0)
        return [[x + left, y + top] for x, y in found]

    def shown(self, source: Any, name: str = "") -> Shown:
        """A screenshot with the place of each pixel in `source`, the data set of the image that is shown.

        None: an image without a position in the patient, placed as the viewer places it.
        """
        pixels = self.picture(name)
        base, right, down = (np.array(one) for one in self.places(_corners(source) if source else self.ask(_CORNERS)))
        to_screen = np.column_stack([right - base, down - base])
        y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        offsets = np.stack([x + 0.5 - base[0], y + 0.5 - base[1]], axis=-1)
        columns, rows = np.moveaxis(offsets @ np.linalg.inv(to_screen).T, -1, 0)
        left, top, width, height = map(int, self._box())
        inside = np.zeros(pixels.shape[:2], bool)
        inside[top + 2 : top + height - 2, left + 2 : left + width - SCROLL_BAR] = True
        return Shown(pixels, columns, rows, inside)

    def _box(self) -> tuple[float, float, float, float]:
        left, top, width, height = self.ask(
            "() => { const b = viewport().canvas.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }"
        )
        return left, top, width, height


def _corners(source: Any) -> list[NDArray[np.float64]]:
    origin = np.array(source.ImagePositionPatient, float)
    along_row, along_column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in source.PixelSpacing)
    return [origin, origin + along_row * between_columns, origin + along_column * between_rows]
