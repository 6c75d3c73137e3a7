"""Multipart bodies: the same parts come out however the stream was cut, and nothing is held that need not be."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging_ai.serve.dicomweb.multipart_in import MalformedMultipart, PartBegins, PartEnds, Splitter

Parts = list[tuple[dict[str, str], bytes]]


def split(pieces: Iterable[bytes], boundary: str = "b") -> Parts:
    splitter, parts = Splitter(boundary), []
    for piece in pieces:
        for event in splitter.feed(piece):
            if isinstance(event, PartBegins):
                parts.append((dict(event.headers), bytearray()))
            elif isinstance(event, PartEnds):
                parts[-1] = (parts[-1][0], bytes(parts[-1][1]))
            else:
                parts[-1][1].extend(event)
    splitter.finish()
    return parts


def joined(parts: Parts, boundary: str = "b") -> bytes:
    body = b""
    for headers, data in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body += f"--{boundary}\r\n{lines}\r\n".encode() + data + b"\r\n"
    return body + f"--{boundary}--".encode()


def cut(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({one % (len(body) + 1) for one in cuts}), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


#: What is hard: bytes that look like a delimiter, or like its beginning.
tricky = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"b", b"\r\n--", b"\r\n--b", b"\r\n--bb", b"\r\n--b-x", b"x"]),
    max_size=12,
).map(b"".join)


def safe(data: bytes) -> bool:
    """Whether data holds no delimiter of its own (RFC 2046 forbids that)."""
    text = b"\r\n" + data + b"\r\n"
    return all(
        not text[at + 5 :].lstrip(b" \t").startswith((b"\r\n", b"--"))
        or text[at + 5 : at + 6] == b"-" != text[at + 6 : at + 7]
        for at in range(len(text))
        if text.startswith(b"\r\n--b", at)
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(tricky.filter(safe), min_size=1, max_size=4), st.lists(st.integers(0, 500), max_size=20))
def test_any_cutting_of_the_stream_gives_the_same_parts(bodies: list[bytes], cuts: list[int]) -> None:
    parts = [({"content-type": "application/dicom"} if n % 2 else {}, data) for n, data in enumerate(bodies)]
    assert split(cut(joined(parts), cuts)) == parts


@settings(max_examples=200, deadline=None)
@given(tricky, st.lists(st.integers(0, 500), max_size=20))
def test_what_is_no_multipart_is_judged_the_same_however_it_is_cut(noise: bytes, cuts: list[int]) -> None:
    body = b"--b\r\n" + noise

    def outcome(pieces: list[bytes]) -> Parts | str:
        try:
            return split(pieces)
        except MalformedMultipart as error:
            return error.message

    assert outcome(cut(body, cuts)) == outcome([body])


def test_one_byte_at_a_time() -> None:
    parts: Parts = [({"content-type": "application/dicom"}, b"\r\n--b \r"), ({}, b""), ({"a": "b"}, b"x" * 100)]
    body = joined(parts)
    assert split(body[at : at + 1] for at in range(len(body))) == parts


def test_preamble_padding_and_epilogue_are_no_parts() -> None:
    assert split([b"hello\r\n--b  \t\r\nA: b\r\n\r\ndata\r\n--b-- \r\nbye\r\n--b\r\n"]) == [({"a": "b"}, b"data")]


def test_names_of_headers_are_in_lower_case_and_lines_may_be_folded() -> None:
    assert split([b"--b\r\nContent-TYPE: multipart/related;\r\n type=x\r\n\r\n\r\n--b--"]) == [
        ({"content-type": "multipart/related; type=x"}, b"")
    ]


def test_an_empty_part_may_share_its_blank_line_with_the_delimiter_after_it() -> None:
    assert split([b"--b\r\nA: b\r\n\r\n--b\r\n\r\n--b--"]) == [({"a": "b"}, b""), ({}, b"")]


def test_a_longer_boundary_in_the_data_is_data() -> None:
    assert split([b"--b\r\n\r\none\r\n--bb\r\ntwo\r\n--b--"]) == [({}, b"one\r\n--bb\r\ntwo")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b\r\n",
        b"--b\r\n\r\ndata",
        b"--b\r\n\r\ndata\r\n--b",
        b"--b\r\n\r\ndata\r\n--b\r\n",
        b"--b\r\nno colon\r\n\r\ndata\r\n--b--",
        b"--b\r\n: no name\r\n\r\ndata\r\n--b--",
        b"--other\r\n\r\ndata\r\n--other--",
        b"--b\r\n" + b"A: " + b"x" * 20_000 + b"\r\n\r\n\r\n--b--",
        b"x" * 70_000 + b"\r\n--b\r\n\r\n\r\n--b--",
    ],
)
def test_what_is_not_whole_or_not_multipart_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMultipart):
        split([body])
    with pytest.raises(MalformedMultipart):
        split(cut(body, range(0, len(body), 7)))


@pytest.mark.parametrize("boundary", ["", "ends with ", "ä", "a\nb", "x" * 201])
def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    with pytest.raises(MalformedMultipart):
        Splitter(boundary)


def test_a_part_of_any_length_passes_in_flat_memory() -> None:
    splitter = Splitter("boundary")
    list(splitter.feed(b"--boundary\r\n\r\n"))
    for _ in range(50):
        list(splitter.feed(b"\r\n--bound" + b"x" * 65_536))
        assert len(splitter._held) - splitter._at < 20


def test_ten_thousand_parts_in_one_piece_take_no_time_of_their_square() -> None:
    """The bytes after a part are not moved for each part: half a million header bytes would become gigabytes."""
    parts: Parts = [({"a": str(number)}, b"x" * 30) for number in range(10_000)]
    splitter = Splitter("b")
    begun = sum(isinstance(event, PartBegins) for event in splitter.feed(joined(parts)))
    assert begun == 10_000
