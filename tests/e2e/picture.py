"""The picture of the README: the demo's own study in OHIF.

`PYTHONPATH=tests .venv/bin/python -m e2e.picture docs/images/viewer.png`
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from e2e.server import Server, push
from e2e.test_viewer import SETTINGS, frames_of
from imaging_ai.config import Settings
from imaging_ai.demo_phantom import write_demo_study
from services import require_program
from services.browser import ARGUMENTS
from services.ohif import Ohif

SIZE = {"width": 1280, "height": 680}


def main(target: Path) -> None:
    """Run the demo's study through a server, show it, and write what is seen in 256 colours."""
    folder = Path(tempfile.mkdtemp())
    settings = {"IMAGING_AI_MODELS_SHIPPED": "true", "IMAGING_AI_HTTP_VIEWER": str(Settings().viewer_path)}
    with Server(folder / "server", SETTINGS, settings) as server, sync_playwright() as playwright:
        server.serve()
        write_demo_study(folder / "study")
        push(server.dicom_port, *sorted((folder / "study").rglob("*.dcm")))
        (job,) = server.wait_jobs(1)
        browser = playwright.chromium.launch(executable_path=require_program("chromium"), args=list(ARGUMENTS))
        seg = server.results(job.id)["SEG"]
        frames = frames_of(seg)
        ohif = Ohif(browser, f"http://127.0.0.1:{server.http_port}", folder)
        ohif.page.set_viewport_size(SIZE)  # type: ignore[arg-type]
        ohif.open(job.study_instance_uid, "segmentation")
        ohif.show(seg.SeriesDescription)
        ohif.say("yes")
        ohif.page.locator('[data-cy="data-row"]').first.wait_for()
        ohif.go_to(max(frames, key=lambda uid: int(frames[uid].sum())))
        ohif.ask("() => { viewport().setZoom(1.6); viewport().render(); }")
        ohif.page.mouse.move(5, 5)
        ohif.page.wait_for_timeout(3000)
        ohif.picture("viewer")
        browser.close()
    with Image.open(folder / "viewer.png") as seen:
        seen.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
