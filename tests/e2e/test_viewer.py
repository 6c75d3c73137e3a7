"""OHIF, served by this server, in a real Chromium: a real PET with the results that the shipped model makes of it.

What is on the screen is compared with the objects themselves, pixel by pixel.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from skimage.color import lab2rgb

from e2e.server import Server, instances_of, push
from imaging_ai.archive.archive import Archive
from imaging_ai.archive.blobs import FolderStore
from imaging_ai.config import Settings
from imaging_ai.demo_results import measurements
from imaging_ai.viewer_install import installed
from services import missing, wait_until
from services.ohif import Ohif, Shown

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.service, pytest.mark.slow]

SETTINGS = """
[[rules]]
name = "lesions, and why"
when = { Modality = "PT" }
run = ["fdg-pet-lesion"]
parameters = { explain = ["grad-cam"] }

[[rules]]
name = "slices"
when = { Modality = "PT" }
run = ["fdg-pet-slice"]
"""

Mask = NDArray[np.bool_]


@dataclass
class Study:
    """What is in the server: the source by SOP Instance UID, the results by what their series is called."""

    server: Server
    uid: str
    source: dict[str, pydicom.Dataset]
    results: dict[str, list[pydicom.Dataset]] = field(default_factory=dict)

    def at(self, place: Any) -> str:
        """The instance of the source whose first pixel lies at a place."""
        return min(self.source, key=lambda uid: abs(float(self.source[uid].ImagePositionPatient[2]) - float(place[2])))

    def result(self, ending: str) -> pydicom.Dataset:
        (found,) = (ones[0] for name, ones in self.results.items() if name.endswith(ending))
        return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[Study]:
    """A PET of 30 × 29 pixels: its frames in the SEG do not end at bytes, nor in the map at multiples of four."""
    if not installed(Settings().viewer_path):
        missing("the viewer")
    files = instances_of(real_data / "sts/STS_003/PET/image")
    source = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, files)}
    environment = {"IMAGING_AI_MODELS_SHIPPED": "true", "IMAGING_AI_HTTP_VIEWER": str(Settings().viewer_path)}
    with Server(tmp_path_factory.mktemp("viewer") / "server", SETTINGS, environment) as server:
        server.serve()
        push(server.dicom_port, *files)
        jobs = server.wait_jobs(2)
        one = Study(server, jobs[0].study_instance_uid, source)
        archive = Archive(server.database, FolderStore(server.folder / "data" / "objects"))
        for instance in (instance for job in jobs for instance in archive.results(job.id)):
            ds = pydicom.dcmread(io.BytesIO(archive.read(instance)))
            one.results.setdefault(str(ds.SeriesDescription), []).append(ds)
        yield one


@pytest.fixture(scope="module")
def artefacts() -> Path:
    """Where the screenshots are kept."""
    default = Path(__file__).parents[2] / "out" / "viewer"
    folder = Path(os.environ.get("IMAGING_AI_TEST_ARTEFACTS", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def ohif(browser: Browser, study: Study, artefacts: Path, request: pytest.FixtureRequest) -> Iterator[Ohif]:
    """A page of its own for a test, which ends without a complaint of OHIF and a request that was refused."""
    page = Ohif(browser, f"http://127.0.0.1:{study.server.http_port}", artefacts)
    try:
        yield page
        page.picture(request.node.name.removeprefix("test_"))
        assert page.complaints == []
        assert page.refused == []
    finally:
        page.close()


def frames_of(seg: pydicom.Dataset) -> dict[str, Mask]:
    """The frames of a SEG of one segment, by the instance that each lies on."""
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = bits[: seg.Rows * seg.Columns * int(seg.NumberOfFrames)].reshape(-1, seg.Rows, seg.Columns) > 0
    groups = seg.PerFrameFunctionalGroupsSequence
    uids = [str(one.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID) for one in groups]
    return dict(zip(uids, frames, strict=True))


def display_colour(seg: pydicom.Dataset) -> NDArray[np.float64]:
    """The colour that the first segment recommends, as sRGB (PS3.3 C.10.7.1.1)."""
    lightness, a, b = (float(value) / 65535 for value in seg.SegmentSequence[0].RecommendedDisplayCIELabValue)
    colour: NDArray[np.float64] = lab2rgb([[[lightness * 100, a * 255 - 128, b * 255 - 128]]])[0, 0] * 255
    return colour


def edge(mask: Mask, width: int) -> Mask:
    """The pixels of the screen within `width` of the border of an area."""
    near = np.zeros_like(mask)
    for axis in (0, 1):
        change = np.diff(mask, axis=axis, prepend=mask.take([0], axis=axis))
        for shift in range(-width, width + 1):
            near |= np.roll(change, shift, axis=axis)
    return near


def test_the_work_list_leads_to_the_study(ohif: Ohif, study: Study) -> None:
    ohif.page.goto(f"{ohif.server}/viewer")
    row = ohif.page.get_by_role("row").filter(has_text=str(next(iter(study.source.values())).PatientID))
    row.first.wait_for()
    assert "PT" in row.first.inner_text()
    assert "SEG" in row.first.inner_text()


def test_the_segmentation_lies_on_the_voxels_that_it_names(ohif: Ohif, study: Study) -> None:
    seg = study.result(" SEG")
    frames = frames_of(seg)
    ohif.open(study.uid, "segmentation")
    ohif.show(seg.SeriesDescription)
    ohif.say("yes")
    segment = ohif.page.locator('[data-cy="data-row"]').first
    segment.wait_for()
    assert segment.inner_text().split() == ["1", seg.SegmentSequence[0].SegmentLabel]

    largest = max(frames, key=lambda uid: int(frames[uid].sum()))
    smallest = min(frames, key=lambda uid: int(frames[uid].sum()))
    outside = next(uid for uid in study.source if uid not in frames)
    visible = {
        uid: shown(ohif, study, uid, f"seg-{name}") for uid, name in ((largest, "largest"), (smallest, "smallest"))
    }
    nothing = shown(ohif, study, outside)
    segment.locator('[data-cy="data-row-visibility-toggle"]').click()
    for uid, with_seg in visible.items():
        without = shown(ohif, study, uid)
        changed = (np.abs(with_seg.pixels - without.pixels).max(axis=-1) > 8) & with_seg.inside
        expected = with_seg.of(frames[uid])
        assert expected.sum() > 50
        assert not (changed & ~expected & ~edge(expected, 2)).any(), "colour where the SEG has nothing"
        assert not (expected & ~changed & ~edge(expected, 2)).any(), "no colour where the SEG has something"
        check_colour(with_seg.pixels, without.pixels, expected & ~edge(expected, 4), display_colour(seg))
    assert np.array_equal(nothing.pixels[nothing.inside], shown(ohif, study, outside).pixels[nothing.inside])


def shown(ohif: Ohif, study: Study, uid: str, name: str = "") -> Shown:
    """What the viewport shows of an instance of the source, the mouse out of the way."""
    ohif.page.mouse.move(5, 5)
    ohif.go_to(uid)
    return ohif.shown(study.source[uid], name)


def check_colour(drawn: Any, below: Any, where: Mask, colour: NDArray[np.float64]) -> None:
    """What is drawn is the colour over what is below, everywhere with the same opacity."""
    if not where.any():
        return
    drawn, below = drawn[where].astype(float), below[where].astype(float)
    opacity = float(((drawn - below) * (colour - below)).sum() / ((colour - below) ** 2).sum())
    assert 0.2 < opacity < 0.9
    assert np.abs(below + opacity * (colour - below) - drawn).mean() < 6


def test_a_line_of_the_report_becomes_a_measurement_in_its_place(ohif: Ohif, study: Study) -> None:
    report = study.result(" SR lines")
    ((_, (row,)),) = measurements(report)
    ends = next(np.reshape(item.GraphicData, (-1, 3)) for item in walk(report) if item.ValueType == "SCOORD3D")
    ohif.open(study.uid)
    ohif.page.locator('[data-cy="trackedMeasurements-btn"]').click()
    ohif.show(report.SeriesDescription)
    ohif.say("yes")
    listed = ohif.page.locator('[data-cy="data-row"]')
    listed.first.click()
    panel = ohif.page.locator('[data-cy="trackedMeasurements-panel"]').last
    value = panel.get_by_text(re.compile(r"^[0-9.]+ mm$"))
    value.wait_for()
    assert listed.count() == 1
    assert float(value.inner_text().split()[0]) == pytest.approx(row[1], abs=0.1)
    line = ohif.page.locator('svg.svg-layer line[data-id$="-line"]')
    line.wait_for(state="attached")
    drawn = [[float(line.get_attribute(f"{axis}{end}") or "nan") for axis in "xy"] for end in (1, 2)]
    assert sorted(drawn) == pytest.approx(np.array(sorted(ohif.places(ends, on_page=False))), abs=1.0)
    assert abs(float(position(study, ohif) - ends[0][2])) < 0.1, "on the slice that the line lies in"


def image_of(ohif: Ohif) -> str:
    """The SOP Instance UID of the image that the viewport shows."""
    return ohif.image().split("/instances/")[1].split("/")[0]


def position(study: Study, ohif: Ohif) -> float:
    """Where along the body the shown image lies."""
    return float(study.source[image_of(ohif)].ImagePositionPatient[2])


def walk(item: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for one in item.get("ContentSequence", ()):
        yield one
        yield from walk(one)


def test_a_report_of_volumes_is_read_as_text(ohif: Ohif, study: Study) -> None:
    report = study.result("lesion 0.1.0 SR")
    ohif.open(study.uid)
    ohif.show(report.SeriesDescription)
    ohif.viewport.get_by_text("Imaging Measurement Report").wait_for()
    text = ohif.viewport.inner_text()
    ((label, rows),) = measurements(report)
    assert f"Tracking Identifier: {label}" in text
    for name, value, unit in rows:
        (said,) = re.findall(
            rf"{re.escape(name.replace(' ', ', ', 1) if name.startswith('SUV') else name)}: (\S+) ", text
        )
        assert float(said) == pytest.approx(value), name
        assert unit in text


def test_what_a_classifier_says_is_read_as_text(ohif: Ohif, study: Study) -> None:
    report = study.result("slice 0.1.0 SR")
    ohif.open(study.uid)
    ohif.show(report.SeriesDescription)
    ohif.viewport.get_by_text("Imaging Measurement Report").wait_for()
    text = ohif.viewport.inner_text()
    (series, ((_, chance, _),)), *slices = measurements(report)
    assert slices, "the tumour is in some"
    assert f"Tracking Identifier: {series}" in text
    assert text.count("Presence of property: Present") == 1 + len(slices)
    said = [float(value) for value in re.findall(r"Probability: (\S+) ", text)]
    assert said == pytest.approx([chance, *(rows[0][1] for _, rows in slices)])


def test_the_parametric_map_is_drawn_on_its_voxels(ohif: Ohif, study: Study) -> None:
    mapped = study.result(" PM probability")
    frames = np.frombuffer(mapped.FloatPixelData, "<f4").reshape(-1, mapped.Rows, mapped.Columns)
    planes = [one.PlanePositionSequence[0].ImagePositionPatient for one in mapped.PerFrameFunctionalGroupsSequence]
    certain = [int((frame > 0.9).sum()) for frame in frames]
    lopsided = max(range(len(frames)), key=lambda at: certain[at] - 2 * certain[-1 - at])
    assert certain[lopsided] > 4 * certain[-1 - lopsided], "a frame that shows if the order is turned round"

    ohif.open(study.uid)
    ohif.show(mapped.SeriesDescription)
    ohif.wait_for("() => viewport()?.getActors?.().length === 2 && viewport().getCurrentImageId()")
    ohif.wait_for_silence()
    opened = int(np.argmin([abs(plane[2] - position(study, ohif)) for plane in planes]))
    check_map(ohif, study.source[study.at(planes[opened])], frames[opened])
    check_map(ohif, study.source[study.at(planes[lopsided])], frames[lopsided])


def check_map(ohif: Ohif, source: pydicom.Dataset, frame: NDArray[np.float32], high: float = 0.9) -> None:
    """There are colours on an image where a frame of the map is high, and none where it is low."""
    ohif.go_to(source.SOPInstanceUID)
    seen = wait_until(lambda: coloured(ohif, source, frame > high), 60, 0.5, what="colours where the map is high")
    assert isinstance(seen, Shown)
    nothing = seen.of(frame < 0.01)
    nothing &= ~edge(nothing, 30)
    assert nothing.any()
    assert (np.ptp(seen.pixels[nothing], axis=-1) < 20).mean() > 0.98, "no colours where the map is low"


def coloured(ohif: Ohif, source: pydicom.Dataset, where: Mask) -> Shown | None:
    """What is shown once there are colours all over a part of the image."""
    seen = ohif.shown(source)
    area = seen.of(where)
    area &= ~edge(area, 20)
    assert area.any()
    return seen if (np.ptp(seen.pixels[area], axis=-1) > 60).mean() > 0.98 else None


def test_the_secondary_capture_is_shown_as_it_is(ohif: Ohif, study: Study) -> None:
    captures = next(ones for name, ones in study.results.items() if name.endswith(" SC"))
    ohif.open(study.uid)
    check_picture(ohif, min(captures, key=lambda ds: int(ds.InstanceNumber)))


def check_picture(ohif: Ohif, capture: pydicom.Dataset) -> None:
    """The viewport shows what is in a secondary capture."""
    ohif.show(capture.SeriesDescription)
    ohif.go_to(capture.SOPInstanceUID)
    ohif.page.mouse.move(5, 5)
    seen = ohif.shown(None)
    picture = capture.pixel_array.astype(np.int16)
    known = seen.of(np.ones(picture.shape[:2], bool))
    rows, columns = np.rint(seen.rows[known]).astype(int), np.rint(seen.columns[known]).astype(int)
    off = np.abs(seen.pixels[known] - picture[rows, columns]).max(axis=-1)
    assert np.median(off) <= 2
    colourful = np.ptp(picture[rows, columns], axis=-1) > 80
    assert colourful.sum() > 500
    assert np.median(off[colourful]) < 20
    assert (off > 40).mean() < 0.1, "but for the words of the viewport, and edges that are smoothed"


def test_why_the_model_said_so_is_listed_drawn_and_named_by_the_report(ohif: Ohif, study: Study) -> None:
    mapped, report = study.result(" PM grad-cam 1"), study.result("lesion 0.1.0 SR")
    captures = next(ones for name, ones in study.results.items() if name.endswith(" SC"))
    (*_, explained) = (ds for ds in captures if ds.DerivationCodeSequence[0].CodeValue == "130403")
    answer = study.server.get(f"/dicom-web/studies/{study.uid}/series?Modality=KO&includefield=SeriesDescription")
    (note,) = (one["0008103E"]["Value"][0] for one in answer.json())
    assert note.endswith(" KO explained")

    ohif.open(study.uid)
    ohif.show(note)  # OHIF lists it, and has no way to show it
    check_picture(ohif, explained)
    ohif.picture("explanation-picture")
    ohif.show(report.SeriesDescription)
    ohif.viewport.get_by_text("Imaging Measurement Report").wait_for()
    said = ohif.viewport.inner_text()
    assert f"Visual explanation: {mapped.SeriesDescription}" in said
    assert f"Visual explanation: {explained.SeriesDescription}" in said
    assert "not supported" not in said

    frames = np.frombuffer(mapped.FloatPixelData, "<f4").reshape(-1, mapped.Rows, mapped.Columns)
    heaviest = int(np.argmax((frames > 0.6).sum(axis=(1, 2))))
    place = mapped.PerFrameFunctionalGroupsSequence[heaviest].PlanePositionSequence[0].ImagePositionPatient
    ohif.show(str(study.source[study.at(place)].SeriesDescription))
    ohif.show(mapped.SeriesDescription)
    ohif.wait_for("() => viewport()?.getActors?.().length === 2 && viewport().getCurrentImageId()")
    ohif.wait_for_silence()
    check_map(ohif, study.source[study.at(place)], frames[heaviest], high=0.6)


def test_what_is_measured_in_the_viewer_comes_back_as_a_report(ohif: Ohif, study: Study) -> None:
    before = study.server.instance_count(study.uid)
    ohif.open(study.uid)
    page = ohif.page
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    page.locator('[data-cy="MeasurementTools-split-button-primary"]').click()
    box = page.locator("canvas.cornerstone-canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=5)
    page.mouse.up()
    page.locator('[data-cy="prompt-begin-tracking-yes-btn"]').click()
    page.locator('[data-cy="data-row"]').first.wait_for()
    page.get_by_text("Create SR").click()
    page.locator('[role="dialog"] [role="combobox"]').click()
    page.get_by_role("option", name="Create new series").click()
    page.locator('[data-cy="dialog-input"]').fill("Measured by hand")
    with page.expect_response(lambda one: one.request.method == "POST") as answer:
        page.locator('[data-cy="input-dialog-save-button"] button').click()
    assert answer.value.status == 200
    ohif.series.filter(has_text="Measured by hand").wait_for()
    assert study.server.instance_count(study.uid) == before + 1
