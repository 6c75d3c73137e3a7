"""Codecs: bit-exact on real data, against pydicom's decoders and against our own encodings of known pixels."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from imaging_ai.archive.codecs import DECODABLE, decode_frames, iterate_frames, open_frames
from imaging_ai.errors import ImagingAiError, InputError, NotDicom, NotFound, TooLarge

PHOTO = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
CT = (np.add.outer(np.arange(48) * 40, np.arange(64) * 30) - 1024).astype(np.int16)
COLOUR = np.stack([PHOTO, PHOTO[::-1], PHOTO[:, ::-1]], axis=-1)


def image(pixels: NDArray[Any], encoded: list[bytes] | bytes, uid: str, **attributes: Any) -> bytes:
    """A file with frames that are already encoded."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(uid)
    ds.SOPClassUID, ds.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.7"), UID("1.2.3")
    frame = pixels if pixels.ndim == 2 or pixels.shape[-1] == 3 else pixels[0]
    ds.Rows, ds.Columns = frame.shape[:2]
    ds.SamplesPerPixel = 3 if frame.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if frame.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = frame.dtype.itemsize * 8
    ds.PixelRepresentation = int(frame.dtype.kind == "i")
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.HighBit = ds.BitsStored - 1
    if isinstance(encoded, list):
        ds.NumberOfFrames = len(encoded)
        ds.PixelData = encapsulate(encoded)
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    else:
        ds.PixelData = encoded
        ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if uid == DeflatedExplicitVRLittleEndian:
            ds.save_as(target, enforce_file_format=True)
        else:
            ds.preamble = bytes(128)
            little_endian = uid != ExplicitVRBigEndian  # pydicom does not know every transfer syntax
            pydicom.dcmwrite(target, ds, implicit_vr=False, little_endian=little_endian, force_encoding=True)
    return target.getvalue()


def decoded(data: bytes, **options: Any) -> NDArray[Any]:
    """Decode from the file and from the data set, which must agree."""
    from_bytes = decode_frames(data, **options)
    from_dataset = decode_frames(pydicom.dcmread(io.BytesIO(data), force=True), **options)
    assert from_bytes.dtype == from_dataset.dtype
    assert np.array_equal(from_bytes, from_dataset)
    return from_bytes


def test_every_real_file_decodes_to_what_pydicom_decodes(real_data: Path) -> None:
    folders = ("syntaxes", "ct-liver-seg")
    files = [path for folder in folders for path in sorted((real_data / folder).rglob("*.dcm"))]
    files += (
        sorted((real_data / "ct-abdomen-slab").rglob("*.dcm"))[:1]
        + sorted((real_data / "mr-head-t1").rglob("*.dcm"))[:1]
    )
    compared = 0
    for path in files:
        data = path.read_bytes()
        frames = decode_frames(data)
        try:
            theirs = pixel_array(pydicom.dcmread(path, force=True), raw=True)
        except (AttributeError, RuntimeError, NotImplementedError):
            continue
        theirs = theirs if len(frames) > 1 else theirs[np.newaxis]
        assert np.array_equal(frames, theirs), path.name
        assert frames.dtype == theirs.dtype.newbyteorder("="), path.name
        compared += 1
    assert compared >= 34


@pytest.mark.parametrize("name", ["liver_rle.dcm", "liver_j2k.dcm", "liver_deflate.dcm"])
def test_single_bit_segmentations_are_the_same_in_every_transfer_syntax(real_data: Path, name: str) -> None:
    folder = real_data / "syntaxes"
    plain = decode_frames((folder / "liver.dcm").read_bytes())
    assert plain.any()
    assert np.array_equal(decode_frames((folder / name).read_bytes()), plain)


@pytest.mark.parametrize("name", ["emri_small_RLE.dcm", "emri_small_jpeg_ls_lossless.dcm", "emri_small_big_endian.dcm"])
def test_lossless_copies_of_a_multi_frame_are_bit_exact(real_data: Path, name: str) -> None:
    folder = real_data / "syntaxes"
    plain = decode_frames((folder / "emri_small.dcm").read_bytes())
    assert plain.shape == (10, 64, 64)
    assert np.array_equal(decoded((folder / name).read_bytes()), plain)


def test_frames_of_a_file_without_an_end_still_decode(real_data: Path) -> None:
    folder = real_data / "syntaxes"
    frames = decode_frames((folder / "emri_small_jpeg_2k_lossless_too_short.dcm").read_bytes(), frame_numbers=[1, 5])
    assert np.array_equal(frames, decode_frames((folder / "emri_small.dcm").read_bytes())[[0, 4]])


def unsigned(pixels: NDArray[np.int16]) -> NDArray[np.uint16]:
    return pixels.view(np.uint16)


@pytest.mark.parametrize(
    ("uid", "encoded"),
    [
        ("1.2.840.10008.1.2.4.70", lambda a: imagecodecs.ljpeg_encode(unsigned(a), bitspersample=16)),
        ("1.2.840.10008.1.2.4.80", lambda a: imagecodecs.jpegls_encode(unsigned(a))),
        ("1.2.840.10008.1.2.4.90", lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="J2K")),
        ("1.2.840.10008.1.2.4.90", lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="JP2")),
        ("1.2.840.10008.1.2.4.201", lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
        ("1.2.840.10008.1.2.4.110", lambda a: imagecodecs.jpegxl_encode(unsigned(a), lossless=True)),
        ("1.2.840.10008.1.2.8.1", lambda a: zlib.compress(a.tobytes(), wbits=-15)),
    ],
)
def test_signed_values_survive_every_lossless_syntax(uid: str, encoded: Any) -> None:
    frames = decoded(image(CT, [encoded(CT), encoded(CT[::-1].copy())], uid))
    assert frames.dtype == np.int16
    assert np.array_equal(frames, [CT, CT[::-1]])


def test_twelve_bit_signed_values_get_their_sign_back() -> None:
    twelve = (CT % 4096).astype(np.uint16)
    wanted = np.where(twelve >= 2048, twelve.astype(np.int32) - 4096, twelve).astype(np.int16)
    codestream = imagecodecs.jpegls_encode(twelve)
    frames = decoded(image(twelve, [codestream], "1.2.840.10008.1.2.4.80", BitsStored=12, PixelRepresentation=1))
    assert np.array_equal(frames[0], wanted)
    native = decoded(image(twelve, twelve.tobytes(), ExplicitVRLittleEndian, BitsStored=12, PixelRepresentation=1))
    assert np.array_equal(native[0], wanted)


def test_bits_above_the_stored_ones_are_no_part_of_the_value() -> None:
    overlaid = (CT % 4096).astype(np.uint16) | 0x9000
    frames = decoded(image(overlaid, overlaid.tobytes(), ExplicitVRLittleEndian, BitsStored=12))
    assert np.array_equal(frames[0], CT % 4096)


@pytest.mark.parametrize("ends", [(-2048, 2047), (-2049, 0), (0, 2048)])
def test_values_at_the_ends_of_their_bits_stay_and_those_past_them_wrap_round(ends: tuple[int, int]) -> None:
    pixels = np.tile(np.asarray(ends, np.int16), (4, 2))
    (frame,) = decoded(image(pixels, pixels.tobytes(), ExplicitVRLittleEndian, BitsStored=12))
    assert np.array_equal(frame, (pixels.astype(int) + 2048) % 4096 - 2048)


def test_decoded_frames_can_be_written_to() -> None:
    assert decode_frames(image(CT, CT.tobytes(), ExplicitVRLittleEndian)).flags.writeable


def test_twelve_bit_jpeg_decodes() -> None:
    pixels = (PHOTO.astype(np.uint16) * 16)[:, :]
    codestream = imagecodecs.jpeg_encode(pixels, level=98, bitspersample=12)
    frame = decoded(image(pixels, [codestream], "1.2.840.10008.1.2.4.51", BitsStored=12))[0]
    assert frame.dtype == np.uint16
    assert np.abs(frame.astype(int) - pixels).max() < 64


def test_rle_of_sixteen_bits_puts_the_most_significant_bytes_first() -> None:
    planes = [unsigned(CT) >> 8, unsigned(CT) & 0xFF]
    packed = [imagecodecs.packbits_encode(plane.astype(np.uint8).tobytes()) for plane in planes]
    packed = [segment + b"\0" * (len(segment) % 2) for segment in packed]
    header = struct.pack("<16I", 2, 64, 64 + len(packed[0]), *[0] * 13)
    assert np.array_equal(decoded(image(CT, [header + b"".join(packed)], "1.2.840.10008.1.2.5"))[0], CT)


def test_jpeg_colour_stays_as_stored_or_becomes_rgb() -> None:
    codestream = imagecodecs.jpeg_encode(COLOUR, level=98, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
    data = image(COLOUR, [codestream], "1.2.840.10008.1.2.4.50", PhotometricInterpretation="YBR_FULL_422")
    stored, rgb = decoded(data)[0], decoded(data, rgb=True)[0]
    assert np.abs(rgb.astype(int) - COLOUR).max() < 12
    assert np.abs(stored[..., 0].astype(int) - COLOUR @ [0.299, 0.587, 0.114]).max() < 6


def test_jpeg_that_says_rgb_but_holds_ybr_with_a_jfif_header_is_rgb() -> None:
    codestream = imagecodecs.jpeg_encode(COLOUR, level=98, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
    assert b"JFIF" in codestream[:32]
    frame = decoded(image(COLOUR, [codestream], "1.2.840.10008.1.2.4.50"))[0]
    assert np.abs(frame.astype(int) - COLOUR).max() < 12


def test_planar_native_colour_is_interleaved() -> None:
    planes = np.moveaxis(COLOUR, -1, 0).tobytes()
    assert np.array_equal(decoded(image(COLOUR, planes, ExplicitVRLittleEndian, PlanarConfiguration=1))[0], COLOUR)


def test_native_subsampled_colour_is_spread_over_its_pixels() -> None:
    row = bytes([10, 20, 100, 200, 30, 40, 101, 201])
    shaped = np.zeros((1, 4, 3), np.uint8)
    data = image(shaped, row, ExplicitVRLittleEndian, PhotometricInterpretation="YBR_FULL_422")
    assert decoded(data)[0].tolist() == [[[10, 100, 200], [20, 100, 200], [30, 101, 201], [40, 101, 201]]]


def test_ybr_becomes_the_rgb_that_pydicom_computes(real_data: Path) -> None:
    path = real_data / "syntaxes" / "SC_ybr_full_uncompressed.dcm"
    assert np.array_equal(decoded(path.read_bytes(), rgb=True)[0], pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize("name", ["OBXXXX1A_rle_2frame.dcm", "gdcm-US-ALOKA-16_big.dcm"])
def test_palette_colour_becomes_rgb(real_data: Path, name: str) -> None:
    frames = decoded((real_data / "syntaxes" / name).read_bytes(), rgb=True)
    assert frames.shape[-1] == 3
    assert frames.any()


def test_eight_bit_pixels_in_big_endian_words_are_swapped_back() -> None:
    swapped = np.frombuffer(PHOTO.tobytes(), np.uint16).byteswap().tobytes()
    ds = pydicom.dcmread(io.BytesIO(image(PHOTO, swapped, ExplicitVRBigEndian)))
    ds["PixelData"].VR = "OW"
    target = io.BytesIO()
    ds.save_as(target)
    assert np.array_equal(decoded(target.getvalue())[0], PHOTO)


def test_a_deflated_data_set_decodes() -> None:
    assert np.array_equal(decoded(image(CT, CT.tobytes(), DeflatedExplicitVRLittleEndian))[0], CT)


def test_frames_are_decoded_one_at_a_time() -> None:
    count = 60
    data = image(
        np.zeros((512, 512), np.uint16), bytes(512 * 512 * 2 * count), ExplicitVRLittleEndian, NumberOfFrames=count
    )
    tracemalloc.start()
    seen = sum(1 for frame in iterate_frames(data) if frame.shape == (512, 512))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == count
    assert peak < 4 << 20


def test_chosen_frames_come_in_the_order_asked() -> None:
    stack = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 2, 2), np.uint8)
    data = image(stack, stack.tobytes(), ExplicitVRLittleEndian, NumberOfFrames=5)
    assert decoded(data, frame_numbers=[4, 2])[:, 0, 0].tolist() == [3, 1]
    assert len(open_frames(data)) == 5
    with pytest.raises(NotFound):
        decode_frames(data, frame_numbers=[6])


@pytest.mark.parametrize("uid", sorted(DECODABLE))
def test_noise_instead_of_a_codestream_is_not_dicom_and_names_the_transfer_syntax(uid: str) -> None:
    data = image(CT, [b"\xff\xd8\xff\xf7" + bytes(range(250))], uid)
    with pytest.raises(NotDicom, match=uid.replace(".", r"\.")):
        decode_frames(data)


def test_a_codestream_of_another_size_is_refused_before_it_takes_memory() -> None:
    codestream = imagecodecs.jpeg2k_encode(np.zeros((4000, 4000), np.uint16))
    tracemalloc.start()
    with pytest.raises(NotDicom):
        decode_frames(image(CT, [codestream], "1.2.840.10008.1.2.4.90"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_inflating_frame_stops_at_the_size_of_a_frame() -> None:
    bomb = zlib.compress(bytes(64 << 20), wbits=-15)
    tracemalloc.start()
    decode_frames(image(CT, [bomb], "1.2.840.10008.1.2.8.1"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("attributes", "kind", "words"),
    [
        ({"BitsAllocated": 12}, InputError, "not supported"),
        ({"BitsStored": 20}, InputError, "not supported"),
        ({"Rows": 65535, "Columns": 65535}, TooLarge, "more than"),
        ({"Rows": 0}, NotDicom, "frame"),
        ({"NumberOfFrames": 3}, NotDicom, "1 of 3"),
    ],
)
def test_attributes_that_cannot_be_are_refused_with_a_reason(
    attributes: dict[str, Any], kind: type[ImagingAiError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        decode_frames(image(CT, CT.tobytes(), ExplicitVRLittleEndian, **attributes))


def test_a_transfer_syntax_without_decoder_is_named() -> None:
    with pytest.raises(InputError, match=r"1\.2\.840\.10008\.1\.2\.4\.102"):
        decode_frames(image(CT, [b"video!"], "1.2.840.10008.1.2.4.102"))


def test_an_instance_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="no pixel data"):
        decode_frames(Dataset())


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_decode_or_are_refused(real_data: Path, data: st.DataObject) -> None:
    names = [
        "emri_small_RLE.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
        "JLSL_16_15_1_1F.dcm",
        "liver_j2k.dcm",
        "liver_deflate.dcm",
    ]
    damaged = bytearray((real_data / "syntaxes" / data.draw(st.sampled_from(names))).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(200, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decode_frames(bytes(damaged), frame_numbers=[1])
        except ImagingAiError:
            return
