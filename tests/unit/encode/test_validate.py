"""What was valid and is broken in one place does not leave, and the error names the place."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.uid import ImplicitVRLittleEndian

import encoded
import phantoms
from imaging_ai.core.volume import Volume
from imaging_ai.encode import EncodedObject, check
from imaging_ai.encode.iod import Attribute, mandatory_modules, module
from imaging_ai.errors import ResultInvalid
from imaging_ai.infer.volume import read_volume

Mutation = Callable[[Dataset], object]


def mutated(obj: EncodedObject, mutate: Mutation) -> EncodedObject:
    """Return the object with a change made to its data set."""
    ds = encoded.read(obj)
    with disable_value_validation():
        mutate(ds)
        buffer = io.BytesIO()
        dcmwrite(buffer, ds)
    return replace(obj, data=buffer.getvalue())


def find(ds: Dataset, path: str) -> tuple[Dataset, str]:
    """Return the item that has the last keyword of a path, and that keyword: `A[0].B[-1].C`; ~ names a content item."""
    *steps, keyword = path.split(".")
    for step in steps:
        if step.startswith("~"):
            named = [c for c in ds.ContentSequence if c.ConceptNameCodeSequence[0].CodeMeaning == step[1:]]
            ds = named[0]
        else:
            name, _, index = step.rstrip("]").partition("[")
            ds = ds[name].value[int(index)]
    return ds, keyword


def put(path: str, value: object) -> Mutation:
    """Set an attribute."""

    def mutate(ds: Dataset) -> None:
        item, keyword = find(ds, path)
        setattr(item, keyword, value)

    return mutate


def cut(path: str) -> Mutation:
    """Remove an attribute; of content items, remove the one named."""

    def mutate(ds: Dataset) -> None:
        item, keyword = find(ds, path)
        if keyword.startswith("~"):
            rest = [c for c in item.ContentSequence if c.ConceptNameCodeSequence[0].CodeMeaning != keyword[1:]]
            assert len(rest) < len(item.ContentSequence)
            item.ContentSequence = rest
        else:
            del item[keyword]

    return mutate


def pop(path: str) -> Mutation:
    """Remove the last item of a sequence."""

    def mutate(ds: Dataset) -> None:
        item, keyword = find(ds, path)
        item[keyword].value.pop()

    return mutate


def resize(by: int) -> Mutation:
    """Make the pixel data longer or shorter."""
    return lambda ds: setattr(ds, "PixelData", ds.PixelData[:by] if by < 0 else ds.PixelData + bytes(by))


COMMON: list[tuple[str, Mutation]] = [
    ("PatientID", put("PatientID", "SOMEBODY ELSE")),
    ("PatientName", put("PatientName", "Else^Somebody")),
    ("StudyInstanceUID", put("StudyInstanceUID", "1.2.3")),
    ("AccessionNumber", put("AccessionNumber", "B2")),
    ("Modality", put("Modality", "CT")),
    ("SOPClassUID", put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
    ("SOPInstanceUID", put("SOPInstanceUID", "1.2.3")),
    ("SeriesInstanceUID", put("SeriesInstanceUID", "1.2.3")),
    ("SeriesNumber", put("SeriesNumber", None)),
    ("SpecificCharacterSet", put("SpecificCharacterSet", "ISO_IR 100")),
    ("ContentQualification", put("ContentQualification", "GOOD")),
    ("ContentDate", put("ContentDate", "yesterday")),
    ("SeriesDescription", put("SeriesDescription", "x" * 65)),
    ("DeviceUID", cut("DeviceUID")),
    ("ContributingEquipmentSequence", pop("ContributingEquipmentSequence")),
    ("PurposeOfReference", cut("ContributingEquipmentSequence[1].PurposeOfReferenceCodeSequence")),
    ("PurposeOfReference", cut("ContributingEquipmentSequence[1].PurposeOfReferenceCodeSequence[0].CodeValue")),
    ("not an attribute", lambda ds: ds.add_new(0x00091001, "LO", "private")),
    ("value representation", lambda ds: ds.add_new("StudyDescription", "SH", "Phantom")),
]

_FRAME = "PerFrameFunctionalGroupsSequence[0]"
_IMAGE = f"{_FRAME}.DerivationImageSequence[0].SourceImageSequence[0]"
_SHARED = "SharedFunctionalGroupsSequence[0]"
_MEASURES = f"{_SHARED}.PixelMeasuresSequence[0]"
_LISTED = "ReferencedSeriesSequence[0].ReferencedInstanceSequence"
_SECOND_SEGMENT = "PerFrameFunctionalGroupsSequence[2].SegmentIdentificationSequence[0].ReferencedSegmentNumber"

SEG: list[tuple[str, Mutation]] = [
    ("FrameOfReferenceUID", put("FrameOfReferenceUID", "1.2.3")),
    ("Rows", put("Rows", 12)),
    ("NumberOfFrames", put("NumberOfFrames", 1)),
    ("NumberOfFrames", pop("PerFrameFunctionalGroupsSequence")),
    ("PixelData", resize(-2)),
    ("PixelData", resize(2)),
    ("data set", cut("PixelData")),
    ("BitsAllocated", put("BitsAllocated", 8)),
    ("SegmentationType", put("SegmentationType", "RUNLENGTH")),
    ("SegmentationType", put("SegmentationType", "LABELMAP")),
    ("SegmentationFractionalType", put("SegmentationType", "FRACTIONAL")),
    ("BitsAllocated", put("BitsStored", 2)),
    ("SegmentsOverlap", put("SegmentsOverlap", "MAYBE")),
    ("SegmentNumber", put("SegmentSequence[0].SegmentNumber", 2)),
    ("TrackingUID", cut("SegmentSequence[1].TrackingUID")),
    ("SegmentLabel", put("SegmentSequence[0].SegmentLabel", "")),
    ("SegmentAlgorithmName", cut("SegmentSequence[0].SegmentAlgorithmName")),
    ("CIELab", cut("SegmentSequence[0].RecommendedDisplayCIELabValue")),
    ("SegmentedPropertyTypeCodeSequence", cut("SegmentSequence[0].SegmentedPropertyTypeCodeSequence")),
    ("no such segment", pop("SegmentSequence")),
    ("PlaneOrientationSequence", cut(f"{_SHARED}.PlaneOrientationSequence")),
    (
        "ImageOrientationPatient",
        put(f"{_SHARED}.PlaneOrientationSequence[0].ImageOrientationPatient", [0, 1, 0, 1, 0, 0]),
    ),
    ("PixelSpacing", put(f"{_MEASURES}.PixelSpacing", [1, 2])),
    ("SliceThickness", put(f"{_MEASURES}.SliceThickness", 0)),
    ("SpacingBetweenSlices", put(f"{_MEASURES}.SpacingBetweenSlices", 3)),
    ("ReferencedSeriesSequence", cut("ReferencedSeriesSequence")),
    ("ReferencedSeriesSequence", pop(_LISTED)),
    ("ReferencedSeriesSequence", put(f"{_LISTED}[0].ReferencedSOPInstanceUID", "1.2.3")),
    ("SourceImageSequence", put("SourceImageSequence[0].ReferencedSOPInstanceUID", "1.2.3")),
    ("PerFrameFunctionalGroupsSequence", cut("PerFrameFunctionalGroupsSequence")),
    ("SourceImageSequence", put(f"{_IMAGE}.ReferencedSOPInstanceUID", "1.2.3")),
    ("00081155", cut(f"{_IMAGE}.ReferencedSOPInstanceUID")),
    ("0040A170", cut(f"{_IMAGE}.PurposeOfReferenceCodeSequence")),
    ("00082112", cut(f"{_FRAME}.DerivationImageSequence[0].SourceImageSequence")),
    ("00089215", cut(f"{_FRAME}.DerivationImageSequence[0].DerivationCodeSequence")),
    ("00209113", cut(f"{_FRAME}.PlanePositionSequence")),
    ("ImagePositionPatient", put(f"{_FRAME}.PlanePositionSequence[0].ImagePositionPatient", [-30, -40, 51])),
    ("no such segment", put(f"{_FRAME}.SegmentIdentificationSequence[0].ReferencedSegmentNumber", 9)),
    ("same segment|DimensionIndexValues", put(_SECOND_SEGMENT, 1)),
    ("DimensionIndexValues", put(f"{_FRAME}.FrameContentSequence[0].DimensionIndexValues", [1, 5])),
    ("DimensionIndexValues", put(f"{_FRAME}.FrameContentSequence[0].DimensionIndexValues", [2, 1])),
]

_FOUND = "~Imaging Measurements.ContentSequence[0]"
_ABSENT = "~Imaging Measurements.ContentSequence[1]"
_SEGMENT = f"{_FOUND}.~Referenced Segment.ReferencedSOPSequence[0]"
_SERIES = "Source Series for Segmentation"
_MEASURED = f"{_FOUND}.~Volume.MeasuredValueSequence[0]"
_EVIDENCE = "CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence"
_OLD = "PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]"

SR: list[tuple[str, Mutation]] = [
    ("VerificationFlag", put("VerificationFlag", "VERIFIED")),
    ("CompletionFlag", put("CompletionFlag", "DONE")),
    ("ContentTemplateSequence", cut("ContentTemplateSequence")),
    ("ConceptNameCodeSequence", put("ConceptNameCodeSequence[0].CodeValue", "126001")),
    ("language", cut("~Language of Content Item and Descendants")),
    ("device observer", cut("~Device Observer UID")),
    ("procedure reported", cut("~Procedure reported")),
    ("measurement group", cut("~Imaging Measurements")),
    ("measurement group", put("~Imaging Measurements.ContentSequence", [])),
    ("tracking identifier", cut(f"{_FOUND}.~Tracking Identifier")),
    ("tracking unique identifier", cut(f"{_ABSENT}.~Tracking Unique Identifier")),
    ("finding", cut(f"{_FOUND}.~Finding")),
    ("algorithm version", cut(f"{_FOUND}.~Algorithm Version")),
    ("TID 1501", cut(f"{_FOUND}.~Referenced Segment")),
    ("source series", cut(f"{_FOUND}.~{_SERIES}")),
    ("source series", put(f"{_FOUND}.~{_SERIES}.UID", "1.2.3")),
    ("which segment", cut(f"{_SEGMENT}.ReferencedSegmentNumber")),
    ("evidence", put(f"{_SEGMENT}.ReferencedSOPInstanceUID", "1.2.3")),
    ("says nothing", cut(f"{_ABSENT}.~Presence of property")),
    ("UCUM", put(f"{_MEASURED}.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator", "99X")),
    ("NumericValue", put(f"{_MEASURED}.NumericValue", "nan")),
    ("MeasuredValueSequence", cut(f"{_FOUND}.~Volume.MeasuredValueSequence")),
    ("RelationshipType", cut(f"{_FOUND}.ContentSequence[0].RelationshipType")),
    ("ValueType", cut(f"{_FOUND}.ContentSequence[0].ValueType")),
    ("TextValue", put(f"{_FOUND}.ContentSequence[0].TextValue", "")),
    ("every source", pop(f"{_EVIDENCE}[0].ReferencedSOPSequence")),
    ("stranger", put(f"{_EVIDENCE}[1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID", "1.2.3")),
    ("PredecessorDocumentsSequence", put(f"{_OLD}.ReferencedSOPInstanceUID", "1.2.3")),
]

KO: list[tuple[str, Mutation]] = [
    ("ContentTemplateSequence", put("ContentTemplateSequence[0].TemplateIdentifier", "1500")),
    ("reason", cut("~Document Title Modifier")),
    ("ConceptNameCodeSequence", put("ConceptNameCodeSequence[0].CodeValue", "113000")),
    ("what the content refers to", pop("ContentSequence")),
    ("what the content refers to", pop(_EVIDENCE)),
]

_LINE = f"{_FOUND}.~Long axis.ContentSequence[0]"

LINES: list[tuple[str, Mutation]] = [
    ("not POLYLINE", put(f"{_LINE}.GraphicType", "POLYGON")),
    ("ReferencedFrameOfReferenceUID", put(f"{_LINE}.ReferencedFrameOfReferenceUID", "1.2.3")),
    ("two points", put(f"{_LINE}.GraphicData", [0.0, 0.0, 0.0])),
    ("on a plane of the source", put(f"{_LINE}.GraphicData", [-30.0, -40.0, 50.6, -30.0, -39.0, 50.6])),
    ("on a plane of the source", put(f"{_LINE}.GraphicData", [-30.0, -40.0, 48.0, -30.0, -39.0, 48.0])),
    ("on a plane of the source", put(f"{_LINE}.GraphicData", [-30.0, -40.0, 50.0, -30.0, 39.0, 50.0])),
    ("GraphicData", cut(f"{_LINE}.GraphicData")),
    ("length of its line", put(f"{_FOUND}.~Long axis.MeasuredValueSequence[0].NumericValue", "99")),
    ("every source", pop(f"{_EVIDENCE}[0].ReferencedSOPSequence")),
    ("tracking identifier", cut(f"{_FOUND}.~Tracking Identifier")),
]

_MAPPING = f"{_SHARED}.RealWorldValueMappingSequence[0]"


def spoil(value: float) -> Mutation:
    """Put one other value into the pixel data."""
    return lambda ds: setattr(ds, "FloatPixelData", np.array([value], "<f4").tobytes() + ds.FloatPixelData[4:])


def turn_frames(ds: Dataset) -> None:
    """Describe the first two frames in the order of each other."""
    frames = ds.PerFrameFunctionalGroupsSequence
    frames[0], frames[1] = frames[1], frames[0]


PM: list[tuple[str, Mutation]] = [
    ("FrameOfReferenceUID", put("FrameOfReferenceUID", "1.2.3")),
    ("Rows", put("Rows", 12)),
    ("BitsAllocated", put("BitsAllocated", 16)),
    ("ImageType", put("ImageType", ["DERIVED", "PRIMARY"])),
    ("FrameType", put(f"{_SHARED}.ParametricMapFrameTypeSequence[0].FrameType", ["ORIGINAL", "PRIMARY"])),
    ("PixelPresentation", put("PixelPresentation", "COLOR")),
    ("BurnedInAnnotation", put("BurnedInAnnotation", "YES")),
    ("ContentLabel", cut("ContentLabel")),
    ("AcquisitionContextSequence", cut("AcquisitionContextSequence")),
    ("PlaneOrientationSequence", cut(f"{_SHARED}.PlaneOrientationSequence")),
    (
        "ImageOrientationPatient",
        put(f"{_SHARED}.PlaneOrientationSequence[0].ImageOrientationPatient", [1, 0, 0, 0, "1.00000001", 0]),
    ),
    ("PixelSpacing", put(f"{_MEASURES}.PixelSpacing", [1, 2])),
    ("RealWorldValueMappingSequence", cut(_MAPPING.removesuffix("[0]"))),
    ("LUTLabel", cut(f"{_MAPPING}.LUTLabel")),
    ("QuantityDefinitionSequence", cut(f"{_MAPPING}.QuantityDefinitionSequence")),
    ("names no quantity", cut(f"{_MAPPING}.QuantityDefinitionSequence[0].ConceptCodeSequence")),
    ("UCUM", put(f"{_MAPPING}.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator", "99X")),
    ("RealWorldValueSlope", put(f"{_MAPPING}.RealWorldValueSlope", 100.0)),
    ("FloatPixelData", put(f"{_MAPPING}.DoubleFloatRealWorldValueLastValueMapped", 0.5)),
    ("maps no range", put(f"{_MAPPING}.DoubleFloatRealWorldValueLastValueMapped", 0.0)),
    ("ReferencedSeriesSequence", pop(_LISTED)),
    ("SourceImageSequence", put(f"{_IMAGE}.ReferencedSOPInstanceUID", "1.2.3")),
    ("NumberOfFrames", pop("PerFrameFunctionalGroupsSequence")),
    ("ImagePositionPatient", put(f"{_FRAME}.PlanePositionSequence[0].ImagePositionPatient", [-30, -40, 51])),
    ("DimensionIndexValues", put(f"{_FRAME}.FrameContentSequence[0].DimensionIndexValues", 2)),
    ("in their order", turn_frames),
    ("PixelData", lambda ds: setattr(ds, "FloatPixelData", ds.FloatPixelData[:-4])),
    ("data set", cut("FloatPixelData")),
    ("FloatPixelData", spoil(float("nan"))),
    ("FloatPixelData", spoil(float("inf"))),
    ("FloatPixelData", spoil(1.5)),
]

SC: list[tuple[str, Mutation]] = [
    ("PhotometricInterpretation", put("PhotometricInterpretation", "YBR_FULL")),
    ("PlanarConfiguration", put("PlanarConfiguration", 1)),
    ("ConversionType", put("ConversionType", "DF")),
    ("ImageType", put("ImageType", ["ORIGINAL", "PRIMARY"])),
    ("BurnedInAnnotation", put("BurnedInAnnotation", "YES")),
    ("PatientOrientation", put("PatientOrientation", ["R", "P"])),
    ("DerivationDescription", cut("DerivationDescription")),
    ("SourceImageSequence", cut("SourceImageSequence")),
    ("SourceImageSequence", put("SourceImageSequence[0].ReferencedSOPInstanceUID", "1.2.3")),
    ("ReferencedSeriesSequence", cut("ReferencedSeriesSequence")),
    ("ReferencedSeriesSequence", put("ReferencedSeriesSequence[0].SeriesInstanceUID", "1.2.3")),
    ("ReferencedSeriesSequence", put(f"{_LISTED}[0].ReferencedSOPInstanceUID", "1.2.3")),
    ("PixelData", resize(-2)),
    ("PixelData", resize(2)),
    ("data set", cut("PixelData")),
]

OWN = {"SEG": SEG, "SR": SR, "SR 2": LINES, "PM": PM, "SC": SC, "KO": KO}
EACH = [
    pytest.param(kind, words, mutate, id=f"{kind}-{number}-{words.split('|')[0]}")
    for kind, own in OWN.items()
    for number, (words, mutate) in enumerate(COMMON + own)
]


@pytest.mark.parametrize("kind", encoded.KINDS)
def test_what_the_encoder_makes_is_valid_and_so_is_what_pydicom_makes_of_it(
    objects: dict[str, EncodedObject], volume: Volume, kind: str
) -> None:
    check(objects[kind], volume)
    check(mutated(objects[kind], lambda ds: None), volume)


@pytest.mark.parametrize(("kind", "words", "mutate"), EACH)
def test_one_broken_thing_is_found_and_named(
    objects: dict[str, EncodedObject], volume: Volume, kind: str, words: str, mutate: Mutation
) -> None:
    with pytest.raises(ResultInvalid, match=words):
        check(mutated(objects[kind], mutate), volume)


def required(ds: Dataset) -> Iterator[tuple[Dataset, str]]:
    """Yield every required attribute of the IOD with the data set or item that holds it, however deep."""
    elsewhere = ("sr-document-content", "key-object-document")
    for name in mandatory_modules(str(ds.SOPClassUID)):
        if name not in elsewhere:
            yield from _required(ds, dict(module(name)))


def _required(ds: Dataset, attributes: dict[str, Attribute]) -> Iterator[tuple[Dataset, str]]:
    for keyword, attribute in attributes.items():
        if keyword not in ds or keyword.endswith("FunctionalGroupsSequence"):
            continue
        if attribute.type in ("1", "2"):
            yield ds, keyword
        for item in ds[keyword].value if attribute.items else ():
            yield from _required(item, dict(attribute.items))


@pytest.mark.parametrize("kind", encoded.KINDS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(min_value=0))
def test_no_required_attribute_can_be_missing(
    objects: dict[str, EncodedObject], volume: Volume, kind: str, which: int
) -> None:
    def remove(ds: Dataset) -> None:
        holders = list(required(ds))
        item, keyword = holders[which % len(holders)]
        del item[keyword]

    with pytest.raises(ResultInvalid):
        check(mutated(objects[kind], remove), volume)


@pytest.mark.parametrize("kind", encoded.KINDS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(min_value=0.0, max_value=0.999))
def test_a_truncated_object_is_refused(
    objects: dict[str, EncodedObject], volume: Volume, kind: str, cut: float
) -> None:
    data = objects[kind].data
    broken = data[: int(len(data) * cut)]
    with pytest.raises(ResultInvalid):
        check(replace(objects[kind], data=broken), volume)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(min_value=132), value=st.integers(min_value=0, max_value=255))
def test_a_flipped_byte_never_escapes_as_another_error(
    objects: dict[str, EncodedObject], volume: Volume, at: int, value: int
) -> None:
    for obj in (objects[kind] for kind in encoded.KINDS):
        data = bytearray(obj.data)
        data[132 + at % (len(data) - 132)] = value
        try:
            check(replace(obj, data=bytes(data)), volume)
        except ResultInvalid as error:
            assert "Phantom" not in error.message  # never a value of the patient's


def test_another_transfer_syntax_is_refused(objects: dict[str, EncodedObject], volume: Volume) -> None:
    ds = encoded.read(objects["SR"])
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, implicit_vr=True, little_endian=True)
    with pytest.raises(ResultInvalid, match="TransferSyntaxUID"):
        check(replace(objects["SR"], data=buffer.getvalue()), volume)


def test_a_kind_without_rules_is_refused(objects: dict[str, EncodedObject], volume: Volume) -> None:
    with pytest.raises(ResultInvalid, match="no rules"):
        check(replace(objects["SC"], kind="RTSTRUCT"), volume)  # type: ignore[arg-type]


def test_a_decimal_string_that_is_too_long_passes_only_as_the_orientation_of_the_source() -> None:
    digits = ["0.999032176441525", "-0.0217883751691557", "0.0382096472372976", "0.026519476938784"]
    datasets = phantoms.series(phantoms.ball((4, 6, 6)))
    with disable_value_validation():
        for ds in datasets:
            ds.ImageOrientationPatient = [*digits, "0.991413870277297", "-0.128059652"]
        volume = read_volume([phantoms.to_bytes(ds) for ds in datasets])
    objects = encoded.encode(volume, kinds=("SEG", "SR", "PM"), maps=[encoded.probability(volume)])
    for obj in objects.values():
        check(obj, volume)
    written = b"\\".join(digit.encode() for digit in digits)
    assert written in objects["PM"].data and written not in bytes(objects["SEG"].data)
    with pytest.raises(ResultInvalid, match="SliceThickness"):
        check(mutated(objects["PM"], put(f"{_MEASURES}.SliceThickness", "2.00000000000000000")), volume)


def test_what_is_no_dicom_file_is_refused(objects: dict[str, EncodedObject], volume: Volume) -> None:
    with pytest.raises(ResultInvalid):
        check(replace(objects["SR"], data=b"nothing"), volume)


def test_a_seg_of_another_series_is_refused(objects: dict[str, EncodedObject]) -> None:
    files = [phantoms.to_bytes(ds) for ds in phantoms.series(np.zeros((8, 11, 9), np.float32), name="other")]
    with pytest.raises(ResultInvalid):
        check(objects["SEG"], read_volume(files))


LABELMAP: list[tuple[str, Mutation]] = [
    ("SegmentationType", put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4")),
    ("SegmentsOverlap", put("SegmentsOverlap", "YES")),
    ("PixelPaddingValue", cut("PixelPaddingValue")),
    ("BitsAllocated", put("BitsAllocated", 32)),
    ("has the number of no segment", pop("SegmentSequence")),
    ("SegmentIdentificationSequence", put(f"{_FRAME}.SegmentIdentificationSequence", [Dataset()])),
    ("DimensionIndexValues", put(f"{_FRAME}.FrameContentSequence[0].DimensionIndexValues", 2)),
    ("DimensionIndexSequence", lambda ds: ds.DimensionIndexSequence.append(ds.DimensionIndexSequence[0])),
    ("PixelData", resize(-2)),
]


@pytest.mark.parametrize(("words", "mutate"), LABELMAP)
def test_one_broken_thing_of_a_label_map_is_found_and_named(volume: Volume, words: str, mutate: Mutation) -> None:
    obj = encoded.encode(volume, segmentation="labelmap")["SEG"]
    broken = mutated(obj, mutate)
    if words == "SegmentationType":
        ds = encoded.read(broken)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        buffer = io.BytesIO()
        dcmwrite(buffer, ds)
        broken = replace(obj, data=buffer.getvalue(), sop_class_uid=ds.SOPClassUID)
    with pytest.raises(ResultInvalid, match=words):
        check(broken, volume)


def test_a_label_map_whose_planes_are_not_in_their_order_is_refused(volume: Volume) -> None:
    def swap(ds: Dataset) -> None:
        first, second = ds.PerFrameFunctionalGroupsSequence[:2]
        for keyword in ("DerivationImageSequence", "PlanePositionSequence"):
            first[keyword], second[keyword] = second[keyword], first[keyword]

    with pytest.raises(ResultInvalid, match="not each plane once, in their order"):
        check(mutated(encoded.encode(volume, segmentation="labelmap")["SEG"], swap), volume)
