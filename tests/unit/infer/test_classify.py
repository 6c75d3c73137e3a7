"""A classifier's numbers become calibrated probabilities: of the whole, and of each instance where it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

import phantoms
from classifiers import DICOM_TOML, bright_slices, brightness_bundle
from imaging_ai.analysis import analyse
from imaging_ai.catalog import Classifier, read_model
from imaging_ai.catalog.classes import Class, Classify, classifier_of
from imaging_ai.core.volume import Volume
from imaging_ai.errors import ModelFailed, ModelOutOfMemory, SeriesRefused
from imaging_ai.infer.bundle import load_bundle
from imaging_ai.infer.classify import activation_of, class_scores, classify, probabilities, reported, scores
from imaging_ai.infer.model import LoadedModel
from imaging_ai.infer.selftest import try_out
from imaging_ai.infer.volume import read_volume

MEANS = [-2.0, 0.0, 3.0, 1.0]
INSTANCES = DICOM_TOML.replace('"series"', '"instance"')


def volume_of(means: list[float]) -> Volume:
    return read_volume(phantoms.to_bytes(ds) for ds in phantoms.series(bright_slices(means)))


def planar(folder: Path, dicom_toml: str = INSTANCES, activation: str = "softmax") -> LoadedModel:
    bundle = brightness_bundle(folder / "model", (5, 6), dicom_toml=dicom_toml, activation=activation)
    return load_bundle(read_model(bundle))


def spatial(folder: Path, dicom_toml: str = DICOM_TOML) -> LoadedModel:
    return load_bundle(read_model(brightness_bundle(folder / "model", (5, 6, 4), dicom_toml=dicom_toml)))


def classifier(how: Classify | None = None, *classes: Class) -> Classifier:
    made = classifier_of(classes or (Class(value=1, label="Bright"),), how or Classify())
    assert made is not None
    return made


def test_a_network_of_volumes_answers_one_row(tmp_path: Path) -> None:
    assert scores(spatial(tmp_path), volume_of(MEANS)) == pytest.approx(np.array([[0.0, 0.5]]), abs=1e-5)


def test_a_network_of_flat_images_answers_a_row_for_each_slice_in_order(tmp_path: Path) -> None:
    means = [float(k % 7) for k in range(19)]  # more than go through it at once
    told: list[float] = []
    answer = scores(planar(tmp_path), volume_of(means), told.append)
    assert answer[:, 1] == pytest.approx(means, abs=1e-5)
    assert told == sorted(told)
    assert told[-1] == 1.0


class Hungry(nn.Module):
    """A network that asks torch for more memory than there is, for more than so many images at once."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most, self.asked = network, most, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(images))
        if len(images) > self.most:
            torch.empty(1 << 60, dtype=torch.uint8)
        return torch.as_tensor(self.network(images))


def test_out_of_memory_it_goes_on_with_fewer_images_and_says_so(tmp_path: Path) -> None:
    model, volume = planar(tmp_path), volume_of([float(k % 7) for k in range(19)])
    expected = scores(model, volume)
    model.network = hungry = Hungry(model.network, 3)
    assert scores(model, volume) == pytest.approx(expected)
    assert hungry.asked == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1], "what was too much is not tried again"
    assert model.how == tuple(f"out of memory; again with {n} images at once on the cpu" for n in (4, 2))
    hungry.most = 0
    with pytest.raises(ModelOutOfMemory, match="ran out of memory on cpu"):
        scores(model, volume)


def test_a_single_volume_that_is_too_large_is_tried_once(tmp_path: Path) -> None:
    model = spatial(tmp_path)
    model.network = hungry = Hungry(model.network, 0)
    with pytest.raises(ModelOutOfMemory):
        scores(model, volume_of(MEANS))
    assert hungry.asked == [1]


def test_the_probability_is_that_of_the_logits_cooled_by_the_temperature(tmp_path: Path) -> None:
    (bright,) = classify(spatial(tmp_path), volume_of(MEANS), "1.2")
    assert bright.probability == pytest.approx(expit(0.5 / 2), abs=1e-6)
    assert bright.calibrated
    assert not bright.present, "its threshold is 0.6"
    assert bright.instances == ()


def test_every_instance_is_spoken_of_and_the_series_by_the_largest(tmp_path: Path) -> None:
    volume = volume_of(MEANS)
    series, *each = classify(planar(tmp_path), volume, "1.2")
    assert [one.probability for one in each] == pytest.approx(expit(np.array(MEANS) / 2), abs=1e-6)
    assert [one.instances for one in each] == [(source.sop_instance_uid,) for source in volume.sources]
    assert series.probability == max(one.probability for one in each)
    assert [one.present for one in each] == [False, False, True, True]
    numbers = [header.InstanceNumber for header in volume.headers]
    assert [one.tracking_identifier for one in each] == [f"Bright, image {number}" for number in numbers]
    assert len({one.tracking_uid for one in (series, *each)}) == len(each) + 1
    assert classify(planar(tmp_path / "again"), volume, "1.2")[1].tracking_uid == each[0].tracking_uid


def test_the_series_may_be_spoken_of_by_the_mean(tmp_path: Path) -> None:
    model = planar(tmp_path, INSTANCES.replace("temperature", 'summary = "mean"\ntemperature'))
    series, *each = classify(model, volume_of(MEANS), "1.2")
    assert series.probability == pytest.approx(np.mean([one.probability for one in each]))


def test_a_planar_network_may_speak_of_the_series_alone(tmp_path: Path) -> None:
    (series,) = classify(planar(tmp_path, DICOM_TOML), volume_of(MEANS), "1.2")
    assert series.probability == pytest.approx(expit(3.0 / 2), abs=1e-6)


def test_the_frames_of_one_instance_are_one(tmp_path: Path) -> None:
    one = phantoms.to_bytes(phantoms.enhanced(bright_slices(MEANS)))
    series, only = classify(planar(tmp_path), read_volume([one]), "1.2")
    assert only.probability == series.probability == pytest.approx(expit(3.0 / 2), abs=1e-6)


def test_a_report_names_the_instances_where_something_is_unless_all_are_wanted(tmp_path: Path) -> None:
    model = planar(tmp_path)
    said = classify(model, volume_of(MEANS), "1.2")
    assert [one.instances != () for one in reported(said, model.entry.classifier)] == [False, True, True]
    nothing = classify(model, volume_of([-1.0, -2.0]), "1.2")
    assert [one.present for one in reported(nothing, model.entry.classifier)] == [False]
    every = classifier(Classify(report="all"))
    assert reported(said, every) == said


def test_a_bundle_that_ends_in_sigmoid_means_sigmoid(tmp_path: Path) -> None:
    model = planar(tmp_path, activation="sigmoid")
    assert model.entry.classifier is not None
    assert activation_of(model, model.entry.classifier) == "sigmoid"
    assert activation_of(model, classifier(Classify(activation="softmax"))) == "softmax"


def test_a_line_for_each_class_takes_the_place_of_the_temperature() -> None:
    logits = np.array([[0.3, 1.7, -0.4]], np.float32)
    one, other = Class(value=1, label="a", platt=(0.8, -0.1)), Class(value=2, label="b")
    made = classifier(Classify(temperature=3.0), one, other)
    a, b = probabilities(logits, made, "softmax")[0]
    odds = 1.7 - np.log(np.exp(0.3) + np.exp(-0.4))
    assert a == pytest.approx(expit(0.8 * odds - 0.1), abs=1e-6)
    assert b == pytest.approx(np.exp(-0.4 / 3) / np.exp(np.array([0.3, 1.7, -0.4]) / 3).sum(), abs=1e-6)
    assert probabilities(logits, made, "sigmoid")[0, 0] == pytest.approx(expit(0.8 * 1.7 - 0.1), abs=1e-6)


def test_large_numbers_do_not_overflow() -> None:
    chances = probabilities(np.array([[-4e4, 4e4], [4e4, -4e4]], np.float32), classifier(), "softmax")
    assert chances[:, 0].tolist() == [1.0, 0.0]


def test_numbers_of_a_network_that_ends_in_probabilities_are_taken_as_they_are() -> None:
    made = classifier(Classify(activation="none"))
    assert probabilities(np.array([[0.1, 0.9]], np.float32), made, "none")[0, 0] == pytest.approx(0.9)
    with pytest.raises(ModelFailed, match=r'answers 0\.1 to 1\.9, and activation is "none"'):
        probabilities(np.array([[0.1, 1.9]], np.float32), made, "none")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([[1.0]], r"the network answers 1 numbers, its classes need 2"), ([[]], "answers 0 numbers")],
)
def test_too_few_numbers_are_refused(numbers: list[list[float]], message: str) -> None:
    with pytest.raises(ModelFailed, match=message):
        probabilities(np.array(numbers, np.float32), classifier(), "softmax")


def test_the_softmax_of_one_number_is_refused() -> None:
    with pytest.raises(ModelFailed, match='activation = "sigmoid"'):
        probabilities(np.array([[1.0]], np.float32), classifier(None, Class(value=0, label="a")), "softmax")


def test_numbers_are_found_alone_beside_an_image_and_under_a_name() -> None:
    image, numbers = torch.zeros(2, 3, 4, 5), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for answer in (numbers, numbers[..., None, None], (image, numbers), {"image": image, "class": numbers}):
        assert torch.equal(class_scores(answer), numbers)
    assert class_scores(torch.tensor([1.0, 2.0])).shape == (2, 1)
    with pytest.raises(ModelFailed, match="the network answers an image"):
        class_scores(image)


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = spatial(tmp_path)
    with torch.no_grad():
        next(model.network.parameters()).fill_(float("nan"))
    with pytest.raises(ModelFailed, match="answered values that are not numbers"):
        classify(model, volume_of(MEANS), "1.2")


def test_a_network_of_volumes_cannot_speak_of_instances(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match=r'level = "instance" is for networks that read flat images'):
        classify(spatial(tmp_path, INSTANCES), volume_of(MEANS), "1.2")


def test_a_network_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match=r"model failed: RuntimeError: .*[Kk]ernel size"):
        classify(spatial(tmp_path), volume_of(MEANS[:2]), "1.2")


def test_what_the_author_refuses_is_refused(tmp_path: Path) -> None:
    model = spatial(tmp_path, DICOM_TOML + "\n[refuse]\nmin_slices = 30\n")
    with pytest.raises(SeriesRefused, match="at least 30 are needed"):
        classify(model, volume_of(MEANS), "1.2")


def test_a_study_is_read_from_several_series(tmp_path: Path) -> None:
    toml = DICOM_TOML.replace('"series"', '"study"') + '\n[inputs.before]\nModality = "CT"\n[inputs.after]\n'
    bundle = brightness_bundle(tmp_path / "model", (5, 6, 4), dicom_toml=toml)
    config = bundle / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"in_channels": 1', '"in_channels": 2'))
    weight = torch.zeros(2, 2, 5, 6, 4)
    weight[1, 1], weight[1, 0] = 1 / 120, -1 / 120
    torch.save({"weight": weight, "bias": torch.zeros(2)}, bundle / "models" / "model.pt")
    before, after = (phantoms.series(bright_slices([mean] * 4)) for mean in (1.0, 5.0))
    for ds in after:
        ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{ds.SeriesInstanceUID}.2", f"{ds.SOPInstanceUID}.2"
    model = load_bundle(read_model(bundle))
    files = {"before": list(before), "after": list(after)}
    analysis = analyse(files, model, lambda *_: None, job_uid="2.25.1", created_at=1e9)
    (said,) = analysis.evaluations
    assert said.probability == pytest.approx(expit(4 / 2), abs=1e-6)
    assert [one.kind for one in analysis.objects] == ["SR"]


def test_the_trial_of_a_classifier_says_what_it_answers(tmp_path: Path) -> None:
    bundle = brightness_bundle(tmp_path / "model", (128, 128, 48), dicom_toml=DICOM_TOML)
    assert try_out(load_bundle(read_model(bundle))).answer.startswith("Bright 0.")
