"""`jobs show`, as people read it."""

from __future__ import annotations

from imaging_ai.cli.common import moment
from imaging_ai.cli.jobs import _lines


def test_a_job_is_written_line_by_line_with_times_of_the_clock() -> None:
    tree = {
        "id": 7,
        "series_instance_uids": ("1.2", "1.3"),
        "created_at": 1.0e9,
        "finished_at": None,
        "provenance": {"model": {"name": "lesion"}, "notes": []},
        "deliveries": [{"destination": "pacs", "state": "SENT"}],
    }
    assert list(_lines(tree)) == [
        "id: 7",
        "series_instance_uids: 1.2, 1.3",
        f"created_at: {moment(1.0e9)}",
        "provenance:",
        "  model:",
        "    name: lesion",
        "  notes: none",
        "deliveries:",
        "  pacs  SENT",
    ]
