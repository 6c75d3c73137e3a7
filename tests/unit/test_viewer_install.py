"""A tarball of npm becomes a folder that can be served under a path, or nothing at all."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from imaging_ai import viewer_install
from imaging_ai.errors import ConfigError, InputError, NotFound
from imaging_ai.serve.viewer_files import ViewerFiles
from imaging_ai.viewer_install import NpmPackage, fetch, install, installed

INDEX = (
    '<html><head><link href="/app.css"><script>window.PUBLIC_URL="/"</script>'
    '<script src="/app.bundle.0123456789abcdef.js"></script></head></html>'
)
BUILD = {
    "index.html": INDEX,
    "app.bundle.0123456789abcdef.js": '__webpack_require__.p = "/";' + " " * 2000,
    "map.js": "x = new sourcePixelData.constructor(sourcePixelData.buffer, i * sliceLength, sliceLength);",
    "app.css": "@font-face{src:url(/0123456789abcdef.woff2)}",
    "0123456789abcdef.woff2": "font",
    "decode.wasm": "\0asm",
    "manifest.json": '{"icons": [{"src": "/assets/icon.png"}]}',
    "assets/icon.png": "png",
    "app-config.js": "window.config = {}",
    "sw.js": "self",
    "ort/ort.wasm": "\0asm",
    "polyfill.js.map": "{}",
    "_headers": "",
}


def tarball(folder: Path, files: Mapping[str, str] = BUILD, prefix: str = "package/dist/") -> tuple[Path, NpmPackage]:
    path = folder / "app.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            **{f"{prefix}{name}": text for name, text in files.items()},
            "package/LICENSE": "MIT",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return path, NpmPackage("@ohif/app", "1.0.0", f"sha512-{digest}")


def test_what_is_not_the_package_byte_for_byte_is_refused(tmp_path: Path) -> None:
    path, package = tarball(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"is not @ohif/app 1\.0\.0"):
        install(path, tmp_path / "viewer", "/viewer", package)
    assert not (tmp_path / "viewer").exists()


def test_every_address_of_the_build_gets_the_path_and_one_line_is_mended(tmp_path: Path) -> None:
    path, package = tarball(tmp_path)
    install(path, tmp_path / "viewer", "/viewer", package)
    text = {name: (tmp_path / "viewer" / name).read_text() for name in BUILD if (tmp_path / "viewer" / name).exists()}
    assert 'href="/viewer/app.css"' in text["index.html"]
    assert 'src="/viewer/app.bundle.0123456789abcdef.js"' in text["index.html"]
    assert 'PUBLIC_URL="/viewer/"' in text["index.html"]
    assert text["app.bundle.0123456789abcdef.js"].startswith('__webpack_require__.p = "/viewer/";')
    assert text["map.js"] == "x = sourcePixelData.subarray(i * sliceLength, (i + 1) * sliceLength);", (
        "the line that is mended"
    )
    assert "url(/viewer/0123456789abcdef.woff2)" in text["app.css"]
    assert '"/viewer/assets/icon.png"' in text["manifest.json"]
    assert set(BUILD) - set(text) == {"app-config.js", "sw.js", "ort/ort.wasm", "polyfill.js.map", "_headers"}


def test_the_list_says_how_each_file_is_served(tmp_path: Path) -> None:
    path, package = tarball(tmp_path)
    install(path, tmp_path / "viewer", "/viewer", package)
    found = ViewerFiles.read(tmp_path / "viewer")
    assert found is not None
    bundle, font = found.files["app.bundle.0123456789abcdef.js"], found.files["0123456789abcdef.woff2"]
    assert (bundle.media_type, bundle.immutable, bundle.compressed) == ("text/javascript", True, True)
    assert (font.media_type, font.immutable, font.compressed) == ("font/woff2", True, False)
    assert found.files["decode.wasm"].media_type == "application/wasm"
    assert not found.files["index.html"].immutable
    assert not found.files["app.css"].immutable


def test_the_scripts_of_the_page_are_known_by_their_hashes(tmp_path: Path) -> None:
    path, package = tarball(tmp_path)
    found = install(path, tmp_path / "viewer", "/viewer", package)
    digest = base64.b64encode(hashlib.sha256(b'window.PUBLIC_URL="/viewer/"').digest()).decode()
    assert found.scripts == (f"sha256-{digest}",)


def test_a_newer_version_replaces_the_older_whole(tmp_path: Path) -> None:
    path, package = tarball(tmp_path, {**BUILD, "old.js": "old"})
    install(path, tmp_path / "viewer", "/viewer", package)
    assert installed(tmp_path / "viewer", package)
    path, newer = tarball(tmp_path)
    newer = replace(newer, version="1.0.1")
    assert not installed(tmp_path / "viewer", newer)
    install(path, tmp_path / "viewer", "/viewer", newer)
    assert installed(tmp_path / "viewer", newer)
    assert not (tmp_path / "viewer" / "old.js").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["app.tgz", "viewer"]


def test_an_installation_by_an_older_recipe_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, package = tarball(tmp_path)
    install(path, tmp_path / "viewer", "/viewer", package)
    assert installed(tmp_path / "viewer", package)
    monkeypatch.setattr(viewer_install, "_MENDED", ((b"wrong", b"right"),))
    assert not installed(tmp_path / "viewer", package)


@pytest.mark.parametrize(
    ("files", "prefix"),
    [({"../../../outside.js": ""}, "package/dist/"), ({"app.js": ""}, "package/dist/"), (BUILD, "elsewhere/")],
    ids=["reaches outside", "has no page", "is another package"],
)
def test_a_tarball_that_is_no_build_leaves_what_was_there(tmp_path: Path, files: dict[str, str], prefix: str) -> None:
    path, package = tarball(tmp_path)
    install(path, tmp_path / "viewer", "/viewer", package)
    path, other = tarball(tmp_path, files, prefix)
    with pytest.raises(InputError):
        install(path, tmp_path / "viewer", "/viewer", other)
    assert installed(tmp_path / "viewer", package)


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    path, package = tarball(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"http\.viewer"):
        install(path, tmp_path / "file" / "viewer", "/viewer", package)


def test_without_npm_one_reads_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="--from"):
        fetch(viewer_install.OHIF, tmp_path)


def test_what_npm_says_of_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NotFound, match="no such package"):
        fetch(viewer_install.OHIF, tmp_path)
