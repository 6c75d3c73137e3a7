"""Frame tables: where each frame of an instance lies in its file, so that a frame is a range of bytes.

Native pixel data (PS3.5 8.1): offset and length by arithmetic, in bits where a pixel is one bit. Encapsulated pixel
data (PS3.5 A.4): the fragments, found once by walking their item headers, and which of them begins each frame, told by
the Basic or Extended Offset Table or, where there is none, by the number of frames and how the fragments begin.
Pixel data is never decoded here. Damaged input gives the frames that are there, and an error text.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal

from imaging_ai.errors import InputError, NotFound

__all__ = [
    "NO_END",
    "Fragments",
    "FrameTable",
    "PixelData",
    "PixelDescription",
    "Reader",
    "frame_table",
    "walk_fragments",
]

#: Gives the bytes of a file from a start, as many as asked or as there are.
Reader = Callable[[int, int], bytes]

Kind = Literal["none", "native", "encapsulated"]
_KINDS: tuple[Kind, ...] = ("none", "native", "encapsulated")
_HEAD = struct.Struct("<BBQQQI")
_VERSION = 1
_UINT32 = "I"

#: What is said where all fragments are whole but nothing ends them: a blemish, no loss.
NO_END = "the encapsulated pixel data has no end"

_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
_WINDOW = 1 << 16
_AFTER_JUMP = 1 << 10
_MAX_FRAGMENTS = 1 << 22

#: What a new codestream begins with: JPEG and JPEG-LS (SOI), JPEG 2000 and HTJ2K (SOC), JPEG XL, RLE has none.
_CODESTREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff", b"\xff\x0a")

#: MPEG-2, MPEG-4 and HEVC: one stream, whose frames are not pieces of it (PS3.5 A.4.5 to A.4.12).
_VIDEO_PREFIX = "1.2.840.10008.1.2.4.10"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"


@dataclass(frozen=True, slots=True)
class Fragments:
    """The fragments of encapsulated pixel data, one after the other, an item header of 8 bytes before each.

    `offset` is where the item header of the first one lies (after the Basic Offset Table), `end` where the value ends.
    `starts` says of each whether it begins like a codestream.
    """

    offset: int
    lengths: array[int]
    starts: bytes
    offset_table: bytes
    end: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class PixelData:
    """Where a Pixel Data, Float or Double Float Pixel Data value lies in the file."""

    tag: int
    offset: int
    length: int
    fragments: Fragments | None = None
    extended_offset_table: bytes = b""


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """The attributes that say how long a frame is (PS3.3 C.7.6.3)."""

    rows: int = 0
    columns: int = 0
    samples_per_pixel: int = 1
    bits_allocated: int = 0
    number_of_frames: int = 1
    photometric_interpretation: str = ""

    @property
    def frame_bits(self) -> int:
        """The length of a native frame in bits."""
        bits = self.rows * self.columns * self.samples_per_pixel * self.bits_allocated
        if self.photometric_interpretation == "YBR_FULL_422" and self.samples_per_pixel == 3:
            return bits * 2 // 3  # two pixels share their colour differences
        return bits


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Where the frames are. `firsts` (empty when every frame is one fragment) are indices into `lengths`."""

    kind: Kind = "none"
    offset: int = 0
    frame_bits: int = 0
    count: int = 0
    lengths: array[int] = field(default_factory=lambda: array(_UINT32))
    firsts: array[int] = field(default_factory=lambda: array(_UINT32))

    def ranges(self, frame_number: int) -> tuple[tuple[int, int], ...]:
        """Return (offset, length) of each piece of a frame; frames count from 1.

        Raises
        ------
        NotFound
            If there is no such frame.
        """
        if not 1 <= frame_number <= self.count:
            raise NotFound(f"frame {frame_number} does not exist: the instance has {self.count} readable frames")
        if self.kind == "native":
            start = (frame_number - 1) * self.frame_bits
            stop = start + self.frame_bits
            return ((self.offset + start // 8, (stop + 7) // 8 - start // 8),)
        first, last = self._fragments_of(frame_number)
        position = self.offset + sum(self.lengths[:first]) + 8 * first
        pieces = []
        for length in self.lengths[first:last]:
            pieces.append((position + 8, length))
            position += 8 + length
        return tuple(pieces)

    def bit_offset(self, frame_number: int) -> int:
        """Return at which bit of its first byte a native frame begins; not 0 only where pixels are single bits."""
        return (frame_number - 1) * self.frame_bits % 8 if self.kind == "native" else 0

    def _fragments_of(self, frame_number: int) -> tuple[int, int]:
        if not self.firsts:
            return frame_number - 1, frame_number
        last = self.firsts[frame_number] if frame_number < self.count else len(self.lengths)
        return self.firsts[frame_number - 1], last

    def pack(self) -> bytes:
        """Return the table in a compact binary form, little endian."""
        head = _HEAD.pack(
            _VERSION, _KINDS.index(self.kind), self.offset, self.frame_bits, self.count, len(self.lengths)
        )
        return head + _little(self.lengths).tobytes() + _little(self.firsts).tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> FrameTable:
        """Return the table that `pack` wrote.

        Raises
        ------
        InputError
            If `packed` is not such a table.
        """
        try:
            version, kind, offset, frame_bits, count, fragments = _HEAD.unpack_from(packed)
            numbers = array(_UINT32, packed[_HEAD.size :])
        except (struct.error, ValueError) as error:
            raise InputError("not a frame table: its length is wrong") from error
        table = cls(
            _KINDS[kind] if kind < len(_KINDS) else "none",
            offset,
            frame_bits,
            count,
            lengths=_little(numbers[:fragments]),
            firsts=_little(numbers[fragments:]),
        )
        if version != _VERSION or kind >= len(_KINDS) or not table._consistent(fragments):
            raise InputError("not a frame table: its numbers contradict each other")
        return table

    def _consistent(self, fragments: int) -> bool:
        if self.kind != "encapsulated":
            return fragments == 0 and not self.firsts and (self.kind == "native" or self.count == 0)
        if not self.firsts:
            return len(self.lengths) == fragments == self.count
        ordered = all(a < b for a, b in pairwise(self.firsts))
        return len(self.firsts) == self.count and ordered and self.firsts[-1] < fragments == len(self.lengths)


def _little(numbers: array[int]) -> array[int]:
    if struct.pack("=H", 1) == b"\x01\x00":
        return numbers
    swapped = array(_UINT32, numbers)
    swapped.byteswap()
    return swapped


class _Window:
    """Reads small pieces at rising positions through a larger piece at a time; less after a long jump."""

    def __init__(self, read: Reader, end: int) -> None:
        self._read, self._end = read, end
        self._base, self._bytes = end, b""

    def at(self, position: int, length: int) -> bytes:
        start = position - self._base
        if start < 0 or start + length > len(self._bytes):
            wanted = _WINDOW if start <= len(self._bytes) else _AFTER_JUMP
            self._bytes, self._base = self._read(position, min(wanted, max(self._end - position, 0))), position
            start = 0
        return self._bytes[start : start + length]


def walk_fragments(read: Reader, position: int, end: int) -> Fragments:
    """Find the fragments of the encapsulated value that begins at `position`, reading little but item headers."""
    window = _Window(read, end)
    lengths, starts = array(_UINT32), bytearray()
    table, error = b"", ""
    if (head := window.at(position, 8))[:4] == _ITEM:
        table = read(position + 8, min(int.from_bytes(head[4:], "little"), max(end - position - 8, 0)))
        position += 8 + len(table)
    offset = position
    while not error:
        head = window.at(position, 12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == _SEQUENCE_END:
            return Fragments(offset, lengths, bytes(starts), table, min(position + 8, end))
        if len(head) < 8:
            error, position = NO_END, end
        elif head[:4] != _ITEM or len(lengths) == _MAX_FRAGMENTS:
            error, position = f"no fragment where one should begin, at byte {position}", end
        else:
            if position + 8 + length > end:
                error = f"the last fragment is cut short by {position + 8 + length - end} bytes"
                length = end - position - 8
            lengths.append(length)
            starts.append(head[8:].startswith(_CODESTREAM_STARTS))
            position += 8 + length
    return Fragments(offset, lengths, bytes(starts), table, position, error)


def frame_table(pixels: PixelData | None, image: PixelDescription, transfer_syntax_uid: str) -> tuple[FrameTable, str]:
    """Return the table of an instance, and what is wrong with its pixel data ("" when nothing is)."""
    if pixels is None:
        return FrameTable(), ""
    if pixels.fragments is None:
        return _native(pixels, image)
    if transfer_syntax_uid.startswith(_VIDEO_PREFIX):
        return FrameTable(), pixels.fragments.error
    return _encapsulated(pixels, pixels.fragments, image)


def _native(pixels: PixelData, image: PixelDescription) -> tuple[FrameTable, str]:
    bits, wanted = image.frame_bits, image.number_of_frames
    if bits <= 0 or wanted <= 0:
        return FrameTable(), "the length of a frame cannot be known from rows, columns, samples, bits and frames"
    count = min(wanted, pixels.length * 8 // bits)
    if count == 0:
        return FrameTable(), "the pixel data is shorter than one frame"
    error = "" if count == wanted else f"the pixel data holds {count} of {wanted} frames"
    return FrameTable("native", pixels.offset, bits, count), error


def _encapsulated(pixels: PixelData, fragments: Fragments, image: PixelDescription) -> tuple[FrameTable, str]:
    wanted, held = image.number_of_frames, len(fragments.lengths)
    if wanted <= 0 or not held:
        return FrameTable(), fragments.error or "the pixel data has no frames"
    firsts = _first_fragments(pixels, fragments, wanted)
    error = fragments.error
    if len(firsts) != wanted:
        held = firsts[wanted] if len(firsts) > wanted else held
        firsts = firsts[:wanted]
        error = error or f"the pixel data holds {len(firsts)} of {wanted} frames that can be told apart"
    one_each = len(firsts) == held and all(map(int.__eq__, firsts, range(held)))
    starts = array(_UINT32) if one_each else array(_UINT32, firsts)
    return FrameTable("encapsulated", fragments.offset, 0, len(firsts), fragments.lengths[:held], starts), error


def _first_fragments(pixels: PixelData, fragments: Fragments, wanted: int) -> Sequence[int]:
    """Return the index of the first fragment of each frame, as far as it can be told."""
    held = len(fragments.lengths)
    if wanted == 1:
        return (0,)
    if held == wanted:
        return range(held)
    at = {
        offset: index for index, offset in enumerate(accumulate(fragments.lengths, lambda a, b: a + 8 + b, initial=0))
    }
    for table, size in ((pixels.extended_offset_table, 8), (fragments.offset_table, 4)):
        offsets = [int.from_bytes(table[i : i + size], "little") for i in range(0, len(table) - size + 1, size)]
        told = [at.get(offset, held) for offset in offsets]
        if len(told) == wanted and told[-1] < held and all(a < b for a, b in pairwise(told)):
            return told
    if any(fragments.starts):
        return [index for index, start in enumerate(fragments.starts) if start]
    return range(held) if held < wanted else ()
