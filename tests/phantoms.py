"""Images of known truth for tests: CT, MR and PET series, enhanced multi-frame objects, and a network that thresholds.

A phantom is a float array ``[slice, row, column]`` in modality values; `series` and `enhanced` write it as DICOM with
any geometry and pixel encoding, so that what comes back can be compared with what was put in.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, derive_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
#: A double oblique plane; the cosines are rounded as scanners round them.
OBLIQUE = (0.9659258, 0.1503837, 0.2106849, -0.2588190, 0.5612370, 0.7861517)

_SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
_ENHANCED = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage, "PT": EnhancedPETImageStorage}


def ball(
    shape: tuple[int, int, int],
    *,
    center: tuple[float, float, float] | None = None,
    radius: float = 5.0,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    inside: float = 300.0,
    outside: float = 0.0,
) -> NDArray[np.float32]:
    """Make a bright ball; `center` in voxels, `radius` in millimetres."""
    middle = center or tuple((size - 1) / 2 for size in shape)
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    distance = sum(((axis - c) * step) ** 2 for axis, c, step in zip(axes, middle, spacing, strict=True))
    return np.where(distance <= radius**2, inside, outside).astype(np.float32)


def corner(shape: tuple[int, int, int], *, inside: float = 300.0, outside: float = 0.0) -> NDArray[np.float32]:
    """Make a block that lies in no symmetric place, so that a flip or a swap of axes shows."""
    image = np.full(shape, outside, np.float32)
    s, r, c = (max(2, size // 4) for size in shape)
    image[1 : 1 + s, 2 : 2 + r, 3 : 3 + c] = inside
    image[1 : 1 + s, 2 : 2 + r, 3 : 4 + 2 * c] = inside
    return image


def affine(
    spacing: tuple[float, float, float],
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-30.0, -40.0, 50.0),
    tilt_degrees: float = 0.0,
) -> NDArray[np.float64]:
    """Map (column, row, slice, 1) to LPS+ millimetres; a tilt shears the stack along its columns."""
    row, column = np.asarray(orientation[:3], float), np.asarray(orientation[3:], float)
    normal = np.cross(row, column)
    step = normal * spacing[0] + column * spacing[0] * math.tan(math.radians(tilt_degrees))
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2], matrix[:3, 3] = row * spacing[2], column * spacing[1], step, origin
    return matrix


def series(
    voxels: NDArray[np.float32],
    *,
    modality: str = "CT",
    name: str = "phantom",
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-30.0, -40.0, 50.0),
    tilt_degrees: float = 0.0,
    slope: float | Sequence[float] = 1.0,
    intercept: float = 0.0,
    bits_stored: int = 16,
    signed: bool = True,
    monochrome1: bool = False,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    reverse: bool = False,
) -> list[Dataset]:
    """Write a phantom as single-frame instances; `slope` may differ from slice to slice, as in PET."""
    matrix = affine(spacing, orientation, origin, tilt_degrees)
    slopes = [float(slope)] * len(voxels) if isinstance(slope, int | float) else [float(s) for s in slope]
    datasets = []
    for k, plane in enumerate(voxels):
        ds = _instance(modality, _SOP_CLASSES[modality], name, str(k))
        ds.InstanceNumber = len(voxels) - k if reverse else k + 1
        ds.ImagePositionPatient = [round(v, 6) for v in (matrix @ (0, 0, k, 1))[:3]]
        ds.ImageOrientationPatient = list(orientation)
        ds.PixelSpacing = [spacing[1], spacing[2]]
        ds.SliceThickness = spacing[0]
        if modality != "MR" or slopes[k] != 1 or intercept:
            ds.RescaleSlope, ds.RescaleIntercept = slopes[k], intercept
        if modality == "CT":
            ds.RescaleType, ds.KVP = "HU", 120
        stored = np.rint((plane - intercept) / slopes[k])
        _encode(ds, stored[None], bits_stored, signed, monochrome1)
        if transfer_syntax_uid != ExplicitVRLittleEndian:
            ds.compress(transfer_syntax_uid, generate_instance_uid=False)
        datasets.append(ds)
    return datasets[::-1] if reverse else datasets


def pet_series(
    suv: NDArray[np.float32],
    *,
    weight_kg: float = 70.0,
    dose_bq: float = 350e6,
    minutes: float = 60.0,
    spacing: tuple[float, float, float] = (3.0, 4.0, 4.0),
    name: str = "pet",
) -> list[Dataset]:
    """Write SUVbw values as BQML, with the tags to compute them back; each slice has a slope of its own."""
    half_life = 6586.2
    decayed = dose_bq * 2 ** (-minutes * 60 / half_life)
    activity = suv * decayed / (weight_kg * 1000)
    slopes = [float(f"{max(float(plane.max()), 1.0) / 30000:.10g}") for plane in activity]
    datasets = series(activity, modality="PT", name=name, spacing=spacing, slope=slopes)
    for ds in datasets:
        ds.Units, ds.DecayCorrection, ds.CorrectedImage = "BQML", "START", ["ATTN", "DECY"]
        ds.CountsSource, ds.SeriesType, ds.CollimatorType = "EMISSION", ["WHOLE BODY", "IMAGE"], "NONE"
        ds.PatientWeight = weight_kg
        ds.SeriesDate = ds.AcquisitionDate = "20240102"
        ds.SeriesTime = ds.AcquisitionTime = "120000"
        start = 12 * 60 - minutes
        dose = Dataset()
        dose.RadiopharmaceuticalStartTime = f"{int(start // 60):02d}{int(start % 60):02d}00"
        dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = dose_bq, half_life
        ds.RadiopharmaceuticalInformationSequence = DicomSequence([dose])
    return datasets


def enhanced(
    voxels: NDArray[np.float32],
    *,
    modality: str = "MR",
    name: str = "enhanced",
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-30.0, -40.0, 50.0),
    slope: float = 1.0,
    intercept: float = 0.0,
    order: Sequence[int] | None = None,
) -> Dataset:
    """Write a phantom as one multi-frame instance; frames lie in the file in `order`."""
    matrix = affine(spacing, orientation, origin)
    frames = list(order) if order is not None else list(range(len(voxels)))
    ds = _instance(modality, _ENHANCED[modality], name, "0")
    ds.InstanceNumber = 1
    measures, plane, transformation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[2]], spacing[0]
    plane.ImageOrientationPatient = list(orientation)
    transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = slope, intercept, "US"
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([plane])
    shared.PixelValueTransformationSequence = DicomSequence([transformation])
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence([_frame(matrix, k) for k in frames])
    _encode(ds, np.rint((voxels[frames] - intercept) / slope), 16, True, False)
    ds.NumberOfFrames = len(frames)
    return ds


def localizer(like: Dataset, *, name: str = "localizer") -> Dataset:
    """Make a coronal scout of 24 x 24 in the series of `like`."""
    ds = series(np.full((1, 24, 24), 50, np.float32), modality=like.Modality, name=name, orientation=CORONAL)[0]
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, keyword, like[keyword].value)
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """Write a data set as a DICOM file (PS3.10)."""
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write data sets as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in datasets:
        paths.append(folder / f"{ds.SOPInstanceUID}.dcm")
        paths[-1].write_bytes(to_bytes(ds))
    return paths


def threshold_bundle(
    folder: Path,
    threshold: float = 150.0,
    *,
    modality: str = "CT",
    pixdim: tuple[float, float, float] | None = None,
    window: int | None = None,
    overlap: float = 0.25,
    dicom_toml: str | None = None,
) -> Path:
    """Write a MONAI bundle that finds what is brighter than `threshold`; the model's name is that of `folder`.

    `pixdim` resamples in between, as the bundles of the Model Zoo do; a small `window` with much `overlap` is slow.
    `dicom_toml` replaces the text of `dicom.toml` ("" leaves it out).
    """
    import torch  # heavy: only for those who make a bundle

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(_inference(pixdim, window, overlap), indent=2))
    channels = {"channel_def": {"0": "background", "1": "bright"}, "num_channels": 2}
    formats = {"inputs": {"image": {"modality": modality}}, "outputs": {"pred": channels}}
    metadata = {"version": "1.0.0", "authors": "imaging-ai tests", "network_data_format": formats}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    weights = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weights, "bias": torch.tensor([0.0, -threshold])}, folder / "models" / "model.pt")
    text = _DICOM_TOML.replace("MODALITY", modality) if dicom_toml is None else dicom_toml
    if text:
        (folder / "dicom.toml").write_text(text)
    return folder


_DICOM_TOML = """
[model]
name = "Threshold"
version = "1.0.0"
manufacturer = "imaging-ai tests"

[accepts]
Modality = "MODALITY"

[[segments]]
value = 1
label = "Bright"
property_category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
property_type = ["52988006", "SCT", "Lesion"]
color = "#ff3b30"

[refuse]
min_slices = 4
"""


def _inference(pixdim: Sequence[float] | None, window: int | None, overlap: float) -> dict[str, object]:
    keys = "@image_key"
    before: list[dict[str, object]] = [
        {"_target_": "LoadImaged", "keys": keys},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
    ]
    after: list[dict[str, object]] = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    if pixdim:
        before.append({"_target_": "Orientationd", "keys": keys, "axcodes": "RAS"})
        before.append({"_target_": "Spacingd", "keys": keys, "pixdim": list(pixdim), "mode": "bilinear"})
        inversion = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": keys}
        after.append({**inversion, "nearest_interp": False, "to_tensor": True})
    before.append({"_target_": "EnsureTyped", "keys": keys})
    after.append({"_target_": "AsDiscreted", "keys": "pred", "argmax": True})
    after.append({"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"})
    sliding = {"_target_": "SlidingWindowInferer", "roi_size": [window] * 3, "sw_batch_size": 4, "overlap": overlap}
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob('/nowhere/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": sliding if window else {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
    }


def _instance(modality: str, sop_class_uid: str, name: str, number: str) -> Dataset:
    """Make the patient, study, series and frame of reference of an instance; no value is anybody's."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class_uid
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = derive_uid("phantom", name, number)
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyInstanceUID = derive_uid("phantom", name, "study")
    ds.SeriesInstanceUID = derive_uid("phantom", name, "series")
    ds.FrameOfReferenceUID = derive_uid("phantom", name, "frame of reference")
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Test", "PHANTOM", "19700101", "O"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20240102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "120000"
    ds.AccessionNumber, ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "A1", "1", 1, 1
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = modality, "imaging-ai", "phantom"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.StudyDescription, ds.SeriesDescription, ds.ReferringPhysicianName = "Phantom", f"{modality} phantom", ""
    ds.BodyPartExamined, ds.PatientPosition, ds.PositionReferenceIndicator = "ABDOMEN", "HFS", ""
    if modality == "MR":
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 3, 8, 1
    return ds


def _encode(ds: Dataset, stored: NDArray[np.float64], bits_stored: int, signed: bool, monochrome1: bool) -> None:
    low, high = (-(2 ** (bits_stored - 1)), 2 ** (bits_stored - 1) - 1) if signed else (0, 2**bits_stored - 1)
    pixels = np.clip(stored, low, high)
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 16, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(signed)
    ds.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[1:]
    ds.WindowCenter, ds.WindowWidth = 150, 400
    ds.PixelData = pixels.astype(np.int16 if signed else np.uint16).tobytes()
    ds["PixelData"].VR = "OW"


def _frame(matrix: NDArray[np.float64], k: int) -> Dataset:
    frame, position, content = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [round(v, 6) for v in (matrix @ (0, 0, k, 1))[:3]]
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", k + 1, [1, k + 1]
    frame.PlanePositionSequence = DicomSequence([position])
    frame.FrameContentSequence = DicomSequence([content])
    return frame
