"""The error tree: one root, complete tables, and the picture of it that the module draws."""

from __future__ import annotations

import pickle
import re

from imaging_ai import errors
from imaging_ai.errors import ImagingAiError, SeriesRefused


def every_error() -> list[type[ImagingAiError]]:
    found, waiting = [], [ImagingAiError]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += one.__subclasses__()
    return [one for one in found if one.__module__ == errors.__name__]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"ImagingAiError"}
    assert drawn == {one.__name__ for one in every_error()} == set(errors.__all__)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [one.code for one in every_error()]
    assert len(codes) == len(set(codes))


def test_what_is_passing_tells_the_peer_to_try_again() -> None:
    for one in every_error():
        if issubclass(one, errors.UnavailableError):
            assert (one.dimse_status, one.http_status, one.retry) == (0xA700, 503, True)


def test_bad_input_is_never_a_server_error() -> None:
    assert all(400 <= one.http_status < 500 for one in every_error() if issubclass(one, errors.InputError))


def test_errors_cross_a_process_boundary_whole() -> None:
    error = pickle.loads(pickle.dumps(SeriesRefused("missing-slices", "slice 3 of 10 is missing")))
    assert (error.reason, error.message) == ("missing-slices", "slice 3 of 10 is missing")
