"""The catalog: what `dicom.toml` says, what is taken when it says nothing, and the digest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imaging_ai.catalog import Catalog, bundle_digest, read_model
from imaging_ai.core.finding import Code
from imaging_ai.errors import ConfigError, NotFound

TOML = """
[model]
name = "FDG-PET lesion"
version = "2.1"
manufacturer = "Somebody"

[accepts]
Modality = "PT"
instances = ">= 16"

[[segments]]
value = 1
label = "Lesion"
property_category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
property_type = ["52988006", "SCT", "Lesion"]
color = "#ff0000"
min_volume_ml = 0.5

[[segments]]
value = 3
label = "Bladder"
color = [0, 255, 0]

[measurements]
report = ["volume", "peak"]
instances = "components"

[refuse]
min_slices = 16
slice_spacing_mm = [0.5, 6]

[run]
queue = "inference-gpu"
time_limit = 30
"""


def bundle(folder: Path, toml: str | None = TOML, **channels: str) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text("{}")
    outputs = {"pred": {"channel_def": channels}} if channels else {}
    formats = {"inputs": {"image": {"modality": "MRI"}}, "outputs": outputs}
    metadata = {"version": "0.4", "authors": "Authors", "network_data_format": formats}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "models" / "model.pt").write_bytes(b"weights")
    if toml is not None:
        (folder / "dicom.toml").write_text(toml)
    return folder


def test_dicom_toml_says_what_a_model_is(tmp_path: Path) -> None:
    entry = Catalog([tmp_path, bundle(tmp_path / "lesion").parent]).get("lesion")
    assert (entry.name, entry.version, entry.algorithm.name) == ("lesion", "2.1", "FDG-PET lesion")
    assert entry.algorithm.manufacturer == "Somebody"
    assert entry.algorithm.family == Code("123110", "DCM", "Artificial Intelligence")
    assert [segment.label for segment in entry.segments] == ["Lesion", "Bladder"]
    assert entry.segment_values == (1, 3)
    assert entry.segments[0].property_type == Code("52988006", "SCT", "Lesion")
    assert entry.segments[0].min_volume_ml == 0.5
    assert entry.measurements.report == ("volume", "peak")
    assert entry.refuse.slice_spacing_mm == (0.5, 6.0)
    assert (entry.queue, entry.time_limit) == ("inference-gpu", 30)
    assert entry.accepts.mismatches({"Modality": "PT"}, 20) == []
    assert len(entry.accepts.mismatches({"Modality": "CT"}, 3)) == 2


def test_choices_that_change_an_answer_are_parameters_of_the_algorithm(tmp_path: Path) -> None:
    entry = read_model(bundle(tmp_path / "m", TOML + 'precision = "bfloat16"\nchannels_last = true\n'))
    assert entry.algorithm.parameters == (
        ("precision", "bfloat16"),
        ("max_findings", "20"),
        ("min_volume_ml of 1", "0.5"),
    )


def test_colors_are_cielab(tmp_path: Path) -> None:
    red, green = (segment.cielab for segment in read_model(bundle(tmp_path / "m")).segments)
    assert red == pytest.approx((53.24, 80.09, 67.20), abs=0.05)
    assert green == pytest.approx((87.73, -86.18, 83.18), abs=0.05)


def test_a_bundle_without_dicom_toml_is_named_from_its_metadata(tmp_path: Path) -> None:
    entry = read_model(bundle(tmp_path / "m", None, **{"0": "background", "1": "spleen", "2": "liver"}))
    assert [(s.label, s.property_type.meaning) for s in entry.segments] == [("spleen", "Tissue"), ("liver", "Tissue")]
    assert entry.segment_values == (1, 2)
    assert (entry.version, entry.algorithm.manufacturer) == ("0.4", "Authors")
    assert entry.accepts.mismatches({"Modality": "MR"}, 1) == []
    assert entry.accepts.mismatches({"Modality": "CT"}, 1)
    assert any("no dicom.toml" in remark for remark in entry.missing())


def test_a_lone_foreground_channel_is_the_label_1(tmp_path: Path) -> None:
    assert read_model(bundle(tmp_path / "m", None, **{"0": "lesion"})).segment_values == (1,)


def test_overlapping_channels_count_from_0(tmp_path: Path) -> None:
    entry = read_model(bundle(tmp_path / "m", None, **{"0": "tumor core", "1": "whole tumor"}))
    assert entry.segment_values == (0, 1)


def test_inputs_keep_the_order_of_the_channels(tmp_path: Path) -> None:
    toml = '[inputs.t1c]\nModality = "MR"\n[inputs.flair]\nSeriesDescription = "*FLAIR*"\n'
    assert list(read_model(bundle(tmp_path / "m", toml)).inputs) == ["t1c", "flair"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[modell]\n", r"dicom.toml: .*unknown field `modell`"),
        ("[run]\nqueue = 'fast'\n", r"dicom.toml: Invalid enum value 'fast' - at `\$.run.queue`"),
        ("[[segments]]\nvalue = 1\n", r"dicom.toml: .*missing required field `label` - at `\$.segments\[0\]`"),
        ("[[segments]]\nvalue = 1\nlabel = 'a'\ncolor = 'red'\n", r"color"),
        ("[[segments]]\nvalue = 1\nlabel = 'a'\n[[segments]]\nvalue = 1\nlabel = 'b'\n", "two segments have the same"),
        ("[accepts]\nNoSuchKeyword = 'a'\n", r"\[accepts\]"),
        ("this is no toml", "dicom.toml"),
    ],
)
def test_a_wrong_dicom_toml_is_refused_by_file_and_key(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_model(bundle(tmp_path / "m", toml))


def test_a_model_says_which_objects_it_wants(tmp_path: Path) -> None:
    (plain := tmp_path / "plain").mkdir()
    assert (read_model(plain).outputs.kinds, read_model(plain).outputs.lines) == (("SEG", "SR"), False)
    (wanting := tmp_path / "wanting").mkdir()
    (wanting / "dicom.toml").write_text('[outputs]\nkinds = ["SR", "PM", "SC", "KO"]\nlines = true\n')
    outputs = read_model(wanting).outputs
    assert (outputs.kinds, outputs.lines) == (("SR", "PM", "SC", "KO"), True)


TWO_SEGMENTS = "[[segments]]\nvalue = 1\nlabel = 'a'\n[[segments]]\nvalue = 2\nlabel = 'b'\n"


def test_the_type_of_a_segmentation_says_whether_a_probability_is_needed(tmp_path: Path) -> None:
    assert not read_model(tmp_path).outputs.probability
    for segmentation, needed in (("binary", False), ("labelmap", False), ("fractional", True)):
        (tmp_path / "dicom.toml").write_text(f'[outputs]\nsegmentation = "{segmentation}"\n')
        outputs = read_model(tmp_path).outputs
        assert (outputs.segmentation, outputs.probability) == (segmentation, needed)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[outputs]\nkinds = ["SEG", "PM"]', "SR is missing"),
        ('[outputs]\nkinds = ["SEG", "SR", "RTSTRUCT"]', "RTSTRUCT"),
        ('[outputs]\nsegmentation = "runs"', "runs"),
        (f'{TWO_SEGMENTS}[outputs]\nsegmentation = "fractional"', "fractional is for models of one segment"),
    ],
)
def test_objects_that_are_not_made_are_refused(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "dicom.toml").write_text(toml)
    with pytest.raises(ConfigError, match=message):
        read_model(tmp_path)


def test_lines_without_a_diameter_to_draw_are_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "dicom.toml").write_text('[measurements]\nreport = ["volume"]\n[outputs]\nlines = true\n')
    assert any("long_axis" in remark for remark in read_model(tmp_path).missing())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m", "[[segments]]\nvalue = 1\nlabel = 'Lesion'\n")
    (folder / "models" / "model.pt").unlink()
    missing = "\n".join(read_model(folder).missing())
    assert "segment 1 (Lesion) has no property_category, property_type, color" in missing
    assert "no weights" in missing
    assert "no [accepts]" in missing
    assert read_model(bundle(tmp_path / "n")).missing() == (
        "segment 3 (Bladder) has no property_category, property_type",
    )


def test_the_digest_is_of_every_byte_and_name(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m")
    seen = {bundle_digest(folder)}
    weights = folder / "models" / "model.pt"
    weights.write_bytes(b"weightt")
    seen.add(bundle_digest(folder))
    weights.rename(folder / "models" / "other.pt")
    seen.add(bundle_digest(folder))
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("")
    seen.add(bundle_digest(folder))
    assert len(seen) == 4
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("left behind by Python")
    assert bundle_digest(folder) in seen


def test_the_device_uid_follows_the_digest(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m")
    before, same = read_model(folder).algorithm, read_model(folder).algorithm
    (folder / "models" / "model.pt").write_bytes(b"trained anew")
    after = read_model(folder).algorithm
    assert before.device_uid == same.device_uid != after.device_uid


def test_a_changed_bundle_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "m")
    catalog = Catalog([tmp_path])
    first = catalog.get("m")
    assert catalog.get("m") is first
    os.utime(folder / "dicom.toml", ns=(1, 1))
    (folder / "dicom.toml").write_text(TOML.replace('"2.1"', '"2.2"'))
    assert catalog.get("m").version == "2.2"


def test_the_first_folder_wins_and_other_folders_are_no_models(tmp_path: Path) -> None:
    mine = bundle(tmp_path / "mine" / "m")
    bundle(tmp_path / "shipped" / "m")
    bundle(tmp_path / "shipped" / "n")
    (tmp_path / "shipped" / "notes").mkdir()
    catalog = Catalog([tmp_path / "mine", tmp_path / "shipped", tmp_path / "absent"])
    assert catalog.names() == ("m", "n")
    assert catalog.get("m").path == mine


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    bundle(tmp_path / "m")
    with pytest.raises(NotFound, match="no model 'x'; installed: m"):
        Catalog([tmp_path]).get("x")
