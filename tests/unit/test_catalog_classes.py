"""`[[classes]]` and `[classify]`: what a classifier's numbers mean, and what is taken when they say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from classifiers import DICOM_TOML, brightness_bundle
from imaging_ai.catalog import ModelEntry, read_model
from imaging_ai.core.finding import Code
from imaging_ai.errors import ConfigError

LESION = Code("52988006", "SCT", "Lesion")
ENDOSCOPY = {
    "version": "2.0",
    "network_data_format": {
        "outputs": {
            "pred": {"type": "probabilities", "format": "classes", "channel_def": {"0": "in body", "1": "out of body"}}
        }
    },
}


def entry(folder: Path, toml: str | None, metadata: dict[str, object] | None = None) -> ModelEntry:
    return read_model(brightness_bundle(folder / "model", (4, 4), dicom_toml=toml, metadata=metadata))


def test_a_class_has_a_code_a_place_and_a_threshold(tmp_path: Path) -> None:
    classifier = entry(tmp_path, DICOM_TOML).classifier
    assert classifier is not None
    (bright,) = classifier.classes
    assert (bright.label, bright.finding, bright.threshold) == ("Bright", LESION, 0.6)
    assert bright.finding_site == Code("10200004", "SCT", "Liver")
    assert (classifier.values, classifier.level, classifier.temperature) == ((1,), "series", 2.0)
    assert (classifier.activation, classifier.summary, classifier.report) == (None, "max", "present")


def test_a_classifier_makes_reports_and_no_segmentation(tmp_path: Path) -> None:
    bright = entry(tmp_path, DICOM_TOML)
    assert bright.outputs.kinds == ("SR",)
    assert bright.segments == ()


def test_a_model_may_have_segments_and_classes(tmp_path: Path) -> None:
    both = entry(tmp_path, DICOM_TOML + '\n[[segments]]\nvalue = 1\nlabel = "Lesion"\n')
    assert both.outputs.kinds == ("SEG", "SR")
    assert len(both.segments) == 1
    assert both.classifier is not None


def test_the_choices_are_told_as_parameters_of_the_algorithm(tmp_path: Path) -> None:
    toml = DICOM_TOML + '\n[[classes]]\nvalue = 0\nlabel = "Dark"\nplatt = [1.5, -0.25]\n'
    assert entry(tmp_path, toml).algorithm.parameters == (
        ("temperature", "2"),
        ("threshold of Bright", "0.6"),
        ("threshold of Dark", "0.5"),
        ("platt of Dark", "1.5 -0.25"),
    )


def test_what_was_not_calibrated_says_so(tmp_path: Path) -> None:
    raw = entry(tmp_path, DICOM_TOML.replace("temperature = 2.0\n", ""))
    assert raw.classifier is not None
    assert not raw.classifier.calibrated(0)
    assert "no temperature in [classify] and no platt: what it says of a class is a score, no probability" in (
        raw.missing()
    )


def test_a_zoo_classifier_without_dicom_toml_has_the_classes_of_its_metadata(tmp_path: Path) -> None:
    zoo = entry(tmp_path, None, ENDOSCOPY)
    assert zoo.classifier is not None
    assert [one.label for one in zoo.classifier.classes] == ["in body", "out of body"]
    assert zoo.classifier.classes[0].finding == Code("404684003", "SCT", "Clinical finding")
    assert zoo.segments == ()
    assert zoo.outputs.kinds == ("SR",)
    assert "class 0 (in body) has no finding" in zoo.missing()


def test_the_channels_of_an_image_are_no_classes(tmp_path: Path) -> None:
    image = json.loads(json.dumps(ENDOSCOPY).replace('"classes"', '"segmentation"'))
    assert entry(tmp_path, None, image).classifier is None


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[classify]\nlevel = "series"\ntemperature = 2.0\n', r"\[classify\] without \[\[classes\]\]"),
        (DICOM_TOML + '\n[[classes]]\nvalue = 1\nlabel = "Other"\n', "two classes have the same"),
        (DICOM_TOML.replace("temperature", 'activation = "none"\ntemperature'), "there are no logits to calibrate"),
        (DICOM_TOML.replace("0.6", "1.2"), "<= 1"),
        (DICOM_TOML.replace("2.0", "0.0"), "> 0"),
        (DICOM_TOML.replace('"series"', '"patient"'), "Invalid enum value 'patient'"),
        (DICOM_TOML.replace("threshold", "treshold"), "unknown field `treshold`"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        entry(tmp_path, toml)
