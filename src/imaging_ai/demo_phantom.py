"""The study of the demo: an FDG-PET of two thighs, made up, with one hot lesion whose true volume is known.

Real patients cannot be shipped in a repository. The phantom is what a scanner would make of simple ellipsoids: their
uptake blurred by the resolution, noise that grows with the square root of the uptake, and the headers of a PET Image
(PS3.3 A.21) in Bq/ml with all that SUV by body weight needs. One seed makes one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import expm1, log, pi, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage
from pydicom.valuerep import DSfloat

from imaging_ai.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derive_uid, new_uid

__all__ = ["DemoStudy", "Ellipsoid", "uptake", "write_demo_study"]

SHAPE = (80, 128, 128)
SPACING_MM = 4.0
RESOLUTION_MM = 6.0  # full width at half maximum, as whole-body scanners have
NOISE = 0.35  # standard deviation at SUV 1, before the blur

WEIGHT_KG = 72.0
DOSE_BQ = 3.5e8
HALF_LIFE_S = 6586.2  # fluorine-18
INJECTED = datetime(2024, 1, 15, 9, 0, tzinfo=UTC)
UPTAKE_TIME = timedelta(minutes=60)
FRAME_S = 180.0


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A region of even uptake: centre and semi-axes in millimetres (to the left, back, head), and its SUV."""

    center: tuple[float, float, float]
    axes: tuple[float, float, float]
    suv: float

    @property
    def volume_ml(self) -> float:
        """Its true volume."""
        return 4 / 3 * pi * prod(self.axes) / 1000


BODY = (
    Ellipsoid((0, 0, 240), (185, 115, 200), 0.6),  # the pelvis, above the thighs
    *(Ellipsoid((side, 0, 0), (82, 88, 400), 0.45) for side in (-90, 90)),  # fat of the thighs
    *(Ellipsoid((side, 0, 0), (66, 70, 380), 0.75) for side in (-90, 90)),  # muscle
    *(Ellipsoid((side, 5, 0), (15, 15, 600), 0.35) for side in (-90, 90)),  # femur
    *(Ellipsoid((side, -38, 0), (6, 6, 600), 1.4) for side in (-68, 68)),  # vessels
)
LESION = Ellipsoid((106, 24, -24), (22, 28, 40), 8.0)


@dataclass(frozen=True, slots=True, eq=False)
class DemoStudy:
    """What was written: the files from foot to head, and the truth about the lesion.

    `lesion` is boolean of ``(slices, rows, columns)``: the voxels whose centre lies in the lesion.
    """

    study_instance_uid: str
    series_instance_uid: str
    paths: tuple[Path, ...]
    true_volume_ml: float
    lesion: NDArray[np.bool_]


def write_demo_study(folder: Path, *, seed: int = 1, fresh: bool = False) -> DemoStudy:
    """Write the series into `folder`, one file for each slice; `fresh` gives it UIDs that no study had before."""
    folder.mkdir(parents=True, exist_ok=True)
    suv = uptake((*BODY, LESION), seed=seed)
    activity = suv / _suv_of_one_becquerel()
    root = new_uid() if fresh else derive_uid("demo phantom", str(seed))
    headers = _series_headers(root)
    paths = tuple(folder / f"{index + 1:04d}.dcm" for index in range(len(activity)))
    for index, (path, plane) in enumerate(zip(paths, activity, strict=True)):
        _slice(headers, root, index, plane).save_as(path, enforce_file_format=True)
    return DemoStudy(
        headers.StudyInstanceUID, headers.SeriesInstanceUID, paths, LESION.volume_ml, _distance(LESION) <= 1
    )


def uptake(ellipsoids: tuple[Ellipsoid, ...], *, seed: int) -> NDArray[np.float32]:
    """Return the SUV that a scanner would show of `ellipsoids`; later ones lie over earlier ones."""
    image = np.zeros(SHAPE)
    for ellipsoid in ellipsoids:
        # the edge of a region runs through voxels: a voxel that is half inside has half of the uptake
        depth = (1 - _distance(ellipsoid)) * min(ellipsoid.axes) / SPACING_MM
        share = np.clip(depth + 0.5, 0, 1)
        image = image * (1 - share) + ellipsoid.suv * share
    noise = np.random.default_rng(seed).normal(0, NOISE, SHAPE) * np.sqrt(image)
    return np.clip(_blur(image + noise), 0, None).astype(np.float32)


def _distance(ellipsoid: Ellipsoid) -> NDArray[np.float64]:
    """Distance of each voxel from the centre, 1 on the surface."""
    total = np.zeros(SHAPE)
    for axis, (x, radius) in enumerate(zip(ellipsoid.center[::-1], ellipsoid.axes[::-1], strict=True)):
        place = (np.arange(SHAPE[axis]) - (SHAPE[axis] - 1) / 2) * SPACING_MM
        shape = [-1 if k == axis else 1 for k in range(3)]
        total += (((place - x) / radius) ** 2).reshape(shape)
    return np.sqrt(total)


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blur by the point spread of the scanner, a Gaussian, along one axis after the other."""
    sigma = RESOLUTION_MM / 2.355 / SPACING_MM
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in range(3):
        padded = np.pad(image, [(3, 3) if k == axis else (0, 0) for k in range(3)], mode="edge")
        shifted = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis)
        image = shifted @ kernel
    return image


def _suv_of_one_becquerel() -> float:
    """SUV by body weight of 1 Bq/ml: grams of patient over the activity that is left when the scan starts."""
    left = DOSE_BQ * 2 ** (-UPTAKE_TIME.total_seconds() / HALF_LIFE_S)
    return WEIGHT_KG * 1000 / left


def _series_headers(root: str) -> Dataset:
    """Headers that all slices share."""
    ds = Dataset()
    _patient_and_study(ds, root)
    _series(ds, root)
    _isotope(ds)
    ds.Manufacturer = "imaging-ai"
    ds.ManufacturerModelName = "Demo phantom"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = IMPLEMENTATION_VERSION_NAME
    ds.FrameOfReferenceUID = derive_uid(root, "frame of reference")
    ds.PositionReferenceIndicator = None
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [SPACING_MM, SPACING_MM]
    ds.SliceThickness = SPACING_MM
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    return ds


def _patient_and_study(ds: Dataset, root: str) -> None:
    scanned = INJECTED + UPTAKE_TIME
    ds.SOPClassUID = PositronEmissionTomographyImageStorage
    ds.StudyInstanceUID = derive_uid(root, "study")
    ds.SeriesInstanceUID = derive_uid(root, "series")
    ds.PatientName = "Phantom^Demo"
    ds.PatientID = "DEMO-PHANTOM"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.PatientAge = "054Y"
    ds.PatientSize = 1.75
    ds.PatientWeight = WEIGHT_KG
    ds.StudyID = "DEMO"
    ds.AccessionNumber = "DEMO1"
    ds.ReferringPhysicianName = None
    ds.StudyDescription = "PET of the thighs (synthetic)"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = scanned.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = scanned.strftime("%H%M%S")


def _series(ds: Dataset, root: str) -> None:
    """PET Series (PS3.3 C.8.9.1) and NM/PET Patient Orientation (C.8.4.6)."""
    ds.Modality = "PT"
    ds.SeriesNumber = 1
    ds.SeriesDescription = "FDG PET, attenuation corrected"
    ds.ProtocolName = "FDG PET thighs"
    ds.BodyPartExamined = "THIGH"
    ds.ImageLaterality = "B"
    ds.SeriesType = ["STATIC", "IMAGE"]
    ds.Units = "BQML"
    ds.CountsSource = "EMISSION"
    ds.NumberOfSlices = SHAPE[0]
    ds.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
    ds.DecayCorrection = "START"
    ds.RandomsCorrectionMethod = "DLYD"
    ds.AttenuationCorrectionMethod = "measured"
    ds.ScatterCorrectionMethod = "model based"
    ds.ReconstructionMethod = "OSEM"
    ds.CollimatorType = "NONE"
    ds.ActualFrameDuration = round(FRAME_S * 1000)
    ds.FrameReferenceTime = FRAME_S * 500
    decay = log(2) * FRAME_S / HALF_LIFE_S
    ds.DecayFactor = round(decay / -expm1(-decay), 6)
    ds.PatientOrientationCodeSequence = Sequence([_code("102538003", "SCT", "recumbent")])
    ds.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = Sequence(
        [_code("40199007", "SCT", "supine")]
    )
    ds.PatientGantryRelationshipCodeSequence = Sequence([_code("102540008", "SCT", "headfirst")])


def _isotope(ds: Dataset) -> None:
    """PET Isotope (PS3.3 C.8.9.2)."""
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadionuclideTotalDose = DOSE_BQ
    item.RadionuclideHalfLife = HALF_LIFE_S
    item.RadionuclidePositronFraction = 0.97
    item.RadiopharmaceuticalStartTime = INJECTED.strftime("%H%M%S")
    item.RadiopharmaceuticalStartDateTime = INJECTED.strftime("%Y%m%d%H%M%S")
    item.RadionuclideCodeSequence = Sequence([_code("77004003", "SCT", "^18^Fluorine")])
    item.RadiopharmaceuticalCodeSequence = Sequence([_code("35321007", "SCT", "Fluorodeoxyglucose F^18^")])
    ds.RadiopharmaceuticalInformationSequence = Sequence([item])


def _code(value: str, scheme_designator: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme_designator, meaning
    return item


def _slice(headers: Dataset, root: str, index: int, activity: NDArray[np.float32]) -> Dataset:
    """Return the instance of one slice; each has its own Rescale Slope, as PET has."""
    ds = Dataset()
    ds.update(headers)
    ds.SOPInstanceUID = derive_uid(root, "instance", str(index))
    ds.InstanceNumber = ds.ImageIndex = index + 1
    origin = [-(size - 1) / 2 * SPACING_MM for size in (SHAPE[2], SHAPE[1], SHAPE[0])]
    ds.ImagePositionPatient = [origin[0], origin[1], origin[2] + index * SPACING_MM]
    ds.SliceLocation = origin[2] + index * SPACING_MM
    slope = DSfloat(max(float(activity.max()), 1.0) / 65535, auto_format=True)
    ds.RescaleIntercept, ds.RescaleSlope = 0, slope
    ds.WindowCenter, ds.WindowWidth = _window()
    pixels = np.clip(np.rint(activity / float(str(slope))), 0, 65535).astype("<u2")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    meta = ds.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, UID(ds.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return ds


def _window() -> tuple[int, int]:
    """Window Center and Width that show SUV 0 to 6."""
    width = round(6 / _suv_of_one_becquerel())
    return width // 2, width
