"""`models list` with a bundle that cannot be read among those that can."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from imaging_ai.cli import cli


def test_a_broken_bundle_is_named_and_hides_no_other(tmp_path: Path) -> None:
    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "dicom.toml").write_text("[modell]")
    done = CliRunner().invoke(cli, ["models", "list"], env={"IMAGING_AI_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 1
    assert "fdg-pet-lesion" in done.stdout
    assert "modell" in done.stderr and "docs/models.md" in done.stderr
