"""Results over a series, from files to a picture: where they are, in their colours, and never over another series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

import encoded
import phantoms
from imaging_ai.cli import main
from imaging_ai.core.colour import srgb_of
from imaging_ai.core.finding import Finding
from imaging_ai.core.volume import Volume
from imaging_ai.draw.planes import Plane
from imaging_ai.infer.volume import read_volume
from imaging_ai.visualize.layouts import pages
from imaging_ai.visualize.reading import Layer, Shown, place

SHAPE = (9, 40, 40)
COLOUR = srgb_of(encoded.LESION.cielab or (0, 0, 0))
LEFT, TOP, SIDE = 10, 30, 480


def series(name: str = "shown", **how: object) -> list[Dataset]:
    return phantoms.series(phantoms.ball(SHAPE), name=name, spacing=(1.0, 1.0, 1.0), **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def volume() -> Volume:
    return read_volume([phantoms.to_bytes(ds) for ds in series()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, volume: Volume) -> Path:
    """Write the series and, in a folder of their own, its results."""
    folder = tmp_path_factory.mktemp("visualize")
    (folder / "series").mkdir()
    (folder / "results").mkdir()
    phantoms.write(series(), folder / "series")
    for kind, obj in encoded.encode_all(volume).items():
        (folder / "results" / f"{kind}.dcm").write_bytes(obj.data)
    return folder


def visualize(*arguments: object) -> int:
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["visualize", *map(str, arguments)])
    return int(ended.value.code or 0)


def drawn(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def found(segmentation: str = "binary") -> list[Finding]:
    count = 1 if segmentation == "fractional" else 2
    return encoded.findings(SHAPE, found=count, absent=0, overlap=segmentation == "binary")


@pytest.mark.parametrize("segmentation", ["binary", "labelmap", "fractional"])
@pytest.mark.parametrize("columns", [40, 41], ids=["whole bytes", "bits"])
def test_segments_are_read_as_they_were_written(segmentation: str, columns: int) -> None:
    shape = (6, 11, columns)
    where = encoded.phantom_volume(shape)
    some = encoded.findings(shape, found=1 if segmentation == "fractional" else 3, absent=0)
    chances = np.full(shape, 0.8, np.float32)
    seg = encoded.encode(where, some, segmentation=segmentation, probability=chances)["SEG"]
    shown = place([encoded.read(seg)], where)
    for finding in some:
        layer = next(one for one in shown.layers if np.array_equal(one.region.whole(), finding.mask))
        assert (layer.name, layer.colour) == ("Lesion", COLOUR)
        assert layer.probability == (pytest.approx(0.8, abs=0.01) if segmentation == "fractional" else None)
    voxels = [one.region.voxels for one in shown.layers]
    assert voxels == sorted(voxels, reverse=True)


def test_the_probability_of_a_segment_is_the_mean_of_the_map_within_it(volume: Volume) -> None:
    objects = encoded.encode_all(volume)
    shown = place([encoded.read(objects[kind]) for kind in ("SEG", "PM")], volume)
    values = encoded.probability(volume).values
    assert shown.heat is not None and np.array_equal(shown.heat.values, values)
    for layer in shown.layers:
        assert layer.probability == pytest.approx(float(values[layer.region.whole()].mean()), abs=1e-5)


def test_a_key_slice_has_the_colour_at_the_edge_of_the_mask_and_the_image_outside(
    folder: Path, volume: Volume, tmp_path: Path
) -> None:
    out = tmp_path / "key.png"
    assert visualize(folder / "series", folder / "results" / "SEG.dcm", out, "--window", "40,400") == 0
    panel = drawn(out)[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    layers = place([encoded.read(encoded.encode_all(volume)["SEG"])], volume).layers
    k = int(layers[0].region.areas.argmax())
    inside = np.kron(layers[0].region.plane(k) | layers[1].region.plane(k), np.ones((12, 12))) > 0
    outlines = (panel == COLOUR).all(axis=-1)
    assert outlines.any()
    rows, columns = np.nonzero(outlines)
    there = np.nonzero(inside)
    for at, expected in ((rows, there[0]), (columns, there[1])):
        assert abs(int(at.min()) - int(expected.min())) <= 6 and abs(int(at.max()) - int(expected.max())) <= 6
    far = panel[300:440, 300:440]
    assert (far == far[..., :1]).all(), "gray, as the image"


def test_a_moving_picture_goes_through_every_slice_that_has_something(
    folder: Path, volume: Volume, tmp_path: Path
) -> None:
    out = tmp_path / "key.gif"
    assert visualize(folder / "series", folder / "results" / "SEG.dcm", out, "--size", "100") == 0
    layers = place([encoded.read(encoded.encode_all(volume)["SEG"])], volume).layers
    slices = np.flatnonzero(sum(one.region.areas for one in layers))
    with Image.open(out) as image:
        assert image.n_frames == len(slices)


@pytest.mark.parametrize("layout", ["key", "montage", "planes"])
@pytest.mark.parametrize("results", ["SEG.dcm", "PM.dcm", ""], ids=["a segmentation", "a map", "the whole folder"])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_every_layout_shows_everything(folder: Path, tmp_path: Path, layout: str, results: str, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    code = visualize(folder / "series", folder / "results" / results, out, "--layout", layout, "--size", "120")
    assert code == 0
    pixels = drawn(out)
    assert (pixels != pixels[..., :1]).any()
    with Image.open(out) as image:
        assert getattr(image, "n_frames", 1) > 1 or suffix == "png" or layout == "montage"


@pytest.mark.parametrize("how", [{}, {"orientation": phantoms.SAGITTAL}, {"reverse": True}])
def test_planes_are_upright_and_letters_say_how_they_lie(how: dict[str, object]) -> None:
    shown = read_volume([phantoms.to_bytes(ds) for ds in series("planes", **how)])
    expected = ("L", "P", "H") if "orientation" not in how else shown.grid.axes[::-1]
    right, bottom = Plane(1, 3).directions(shown.grid)
    assert right == expected[0]
    assert bottom == shown.grid.axes[0].translate(str.maketrans("LRPAHF", "RLAPFH"))
    region = found()[0].region
    assert np.array_equal(Plane(2, 9).mask(region), region.whole()[::-1, :, 9])
    assert np.array_equal(Plane(1, 12).mask(region), region.whole()[::-1, 12])
    assert np.array_equal(Plane(1, 12).of(shown.voxels), shown.voxels[::-1, 12])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, which must end with the code for wrong arguments; return what it says."""
    assert visualize(*arguments) == 2
    return capsys.readouterr().err


def test_a_result_of_another_series_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantoms.write(series("another"), tmp_path)
    said = refused(capsys, tmp_path, folder / "results" / "SEG.dcm", tmp_path / "out.png")
    assert "does not hold the series that the result was made of" in said
    assert not (tmp_path / "out.png").exists()


def _result(volume: Volume) -> Dataset:
    return encoded.read(encoded.encode(volume)["SEG"])


def _moved(ds: Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient[2] += 0.5


def _turned(ds: Dataset) -> None:
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_moved, "another grid"),
        (_turned, "another grid"),
        (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), "another frame of reference"),
        (lambda ds: setattr(ds, "Rows", 20), "20 x 40 pixels"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:10]), "less pixel data"),
        (lambda ds: delattr(ds, "PerFrameFunctionalGroupsSequence"), "PerFrameFunctionalGroupsSequence"),
        (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), "cannot be read"),
        (lambda ds: setattr(ds.SegmentSequence[0], "RecommendedDisplayCIELabValue", [1]), "cannot be read"),
    ],
)
def test_a_result_that_lies_elsewhere_is_refused(
    folder: Path, volume: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, words: str
) -> None:
    ds = _result(volume)
    change(ds)  # type: ignore[operator]
    ds.save_as(tmp_path / "seg.dcm")
    assert words in refused(capsys, folder / "series", tmp_path / "seg.dcm", tmp_path / "out.png")


def test_arguments_that_make_no_sense_are_refused_by_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seg, images = folder / "results" / "SEG.dcm", folder / "series"
    assert "is no DICOM segmentation" in refused(capsys, images, folder / "results" / "SR.dcm", tmp_path / "x.png")
    assert "no segmentation or parametric map in" in refused(capsys, images, images, tmp_path / "x.png")
    assert "neither .png nor .gif" in refused(capsys, images, seg, tmp_path / "x.jpg")
    assert "CENTER,WIDTH" in refused(capsys, images, seg, tmp_path / "x.png", "--window", "wide")
    assert "wider than 0" in refused(capsys, images, seg, tmp_path / "x.png", "--window", "40,0")


def test_a_hundred_segments_have_a_legend_that_says_how_many_more(volume: Volume) -> None:
    region = found()[0].region
    many = tuple(Layer(f"organ {n}", (200, 0, 0), region) for n in range(100))
    (page,) = pages(volume, Shown("model", many, None), "key", side=200)
    (few,) = pages(volume, Shown("model", many[:12], None), "key", side=200)
    assert page.shape == few.shape


def test_a_third_partys_segmentation_lies_on_its_own_series(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "ct-liver-seg"
    out = tmp_path / "liver.png"
    assert visualize(folder, folder / "liver_SEG.dcm", out) == 0
    pixels = drawn(out)[TOP : TOP + SIDE, LEFT : LEFT + SIDE].astype(int)
    coloured = (pixels[..., 0] - pixels[..., 2]) > 10
    assert 0.1 < coloured.mean() < 0.3, "the liver, and little else"
