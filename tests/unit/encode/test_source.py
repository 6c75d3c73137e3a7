"""What the source has wrong does not get into the results; who the patient is always does."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation

import encoded
import phantoms
from imaging_ai.core.volume import Volume
from imaging_ai.encode import check
from imaging_ai.encode.source import decimal_string, patient_and_study, text
from imaging_ai.infer.volume import read_volume


def volume_with(**values: object) -> Volume:
    """Read a CT whose headers have these values, valid or not."""
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    with disable_value_validation():
        for ds in datasets:
            for keyword, value in values.items():
                ds.pop(keyword, None)  # a new element is not validated, an old one would be
                setattr(ds, keyword, value)
        return read_volume([phantoms.to_bytes(ds) for ds in datasets])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientAge", "42"),
        ("PatientSex", "X"),
        ("PatientBirthDate", "1.1.1970"),
        ("PatientSize", ["1.7", "1.8"]),
        ("StudyID", "a study id of more than sixteen"),
        ("StudyTime", "25:61"),
        ("PregnancyStatus", 9),
        ("PatientIdentityRemoved", "YES"),  # without the method it is not valid
        ("StudyDescription", "two\r\nlines"),
    ],
)
def test_an_invalid_value_is_left_out_or_left_empty(keyword: str, value: object) -> None:
    volume = volume_with(**{keyword: value})
    for obj in encoded.encode_all(volume).values():
        check(obj, volume)
        assert not encoded.read(obj).get(keyword)


def test_a_number_that_is_none_is_left_out() -> None:
    files = [phantoms.to_bytes(ds) for ds in volume_with(PatientWeight="70.5").headers]
    volume = volume_with()
    header = dcmread(io.BytesIO(files[0].replace(b"70.5", b"fat ")))
    volume = replace(volume, headers=(header, *volume.headers[1:]))
    sr = encoded.encode(volume)["SR"]
    check(sr, volume)
    assert "PatientWeight" not in encoded.read(sr)


@pytest.mark.parametrize("keyword", ["PatientID", "AccessionNumber"])
def test_who_and_which_study_are_taken_over_even_when_too_long(keyword: str) -> None:
    volume = volume_with(**{keyword: "x" * 80})
    for obj in encoded.encode_all(volume).values():
        check(obj, volume)
        assert encoded.read(obj)[keyword].value == "x" * 80


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 192", "王^小東"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_names_survive_every_character_set(character_set: str | list[str], name: str) -> None:
    volume = volume_with(SpecificCharacterSet=character_set, PatientName=name)
    for obj in encoded.encode_all(volume).values():
        ds = encoded.read(obj)
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert str(ds.PatientName) == name
        check(obj, volume)


def test_sequences_keep_their_valid_items_only() -> None:
    good, bad = Dataset(), Dataset()
    good.CodeValue, good.CodingSchemeDesignator, good.CodeMeaning = "77477000", "SCT", "Computed tomography"
    bad.CodeValue, bad.CodeMeaning = "77477000", "Computed tomography"
    volume = volume_with(ProcedureCodeSequence=[bad, good])
    (item,) = patient_and_study(volume.headers[0]).ProcedureCodeSequence
    assert item.CodingSchemeDesignator == "SCT"


def test_half_a_clinical_trial_module_is_no_module() -> None:
    assert "ClinicalTrialSiteName" not in patient_and_study(volume_with(ClinicalTrialSiteName="Site").headers[0])
    whole = {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P", "ClinicalTrialSubjectID": "1"}
    kept = patient_and_study(volume_with(**whole).headers[0])
    assert (kept.ClinicalTrialSubjectID, kept.ClinicalTrialSiteName) == ("1", "")


def test_only_patient_and_study_are_taken_over() -> None:
    kept = patient_and_study(volume_with(InstitutionName="Hospital", StationName="CT1").headers[0])
    assert "InstitutionName" not in kept
    assert "SeriesDescription" not in kept


def test_no_value_of_the_patients_is_printed(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    volume = volume_with(
        PatientAge="secret", PatientBirthDate="secret", PatientID="secret" * 20, PatientName="secret^" * 12
    )
    recwarn.clear()
    caplog.clear()
    for obj in encoded.encode_all(volume).values():
        check(obj, volume)
    captured = capfd.readouterr()
    assert "secret" not in captured.out + captured.err + caplog.text
    assert "secret" not in "".join(str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.00000", "1.00000"),
        ("-0.0000000000000", "-0.0000000000000"),
        ("0.999032176441525", "0.99903217644152"),
        (" 3 ", "3"),
        (1 / 3, "0.33333333333333"),
    ],
)
def test_decimal_strings_are_shortened_only_where_they_must_be(value: object, expected: str) -> None:
    assert decimal_string(value) == expected


def test_text_fits_its_value_representation() -> None:
    assert text("a\\b\nc" + "d" * 80, 64) == "a/b c" + "d" * 59


def test_the_header_is_left_as_it_was() -> None:
    volume = volume_with(PatientAge="42")
    before = volume.headers[0].to_json()
    encoded.encode_all(volume)
    assert volume.headers[0].to_json() == before


@pytest.mark.parametrize("shared", ["none", "empty"])
def test_frames_that_share_nothing_say_all_by_themselves(shared: str) -> None:
    ds = phantoms.enhanced(phantoms.ball((4, 6, 6)), modality="CT")
    common = ds.SharedFunctionalGroupsSequence[0]
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.update(common)
    if shared == "none":
        del ds.SharedFunctionalGroupsSequence
    else:
        ds.SharedFunctionalGroupsSequence = []
    volume = read_volume([phantoms.to_bytes(ds)])
    for obj in encoded.encode_all(volume).values():
        check(obj, volume)
