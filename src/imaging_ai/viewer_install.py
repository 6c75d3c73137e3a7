"""Installing the viewer: the published npm package of OHIF becomes a folder that is served, whole or not at all.

OHIF is built for the root of a server. Under another path four kinds of places want it: the links and the public URL of
the page, the chunk loader of each bundle, the fonts of the style sheets, the icons of the manifest. Left out is what
nothing here uses: source maps, a service worker, and the neural network runtime of a tool whose model lies elsewhere.
One line is mended, see `_MENDED`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import mimetypes
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from imaging_ai.errors import ConfigError, InputError, NotFound
from imaging_ai.serve.viewer_files import ViewerFile, ViewerFiles

__all__ = ["OHIF", "NpmPackage", "fetch", "install", "installed"]


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """One version of a package, by its name and the digest of its tarball (W3C Subresource Integrity)."""

    name: str
    version: str
    integrity: str


OHIF = NpmPackage(
    "@ohif/app",
    "3.13.2",
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
)

#: Wrong in the package, and what is right. Parametric maps: an offset in bytes was counted in pixels, so that a map was
#: an error unless its frames have a multiple of four pixels.
_MENDED = (
    (
        b"new sourcePixelData.constructor(sourcePixelData.buffer, i * sliceLength, sliceLength)",
        b"sourcePixelData.subarray(i * sliceLength, (i + 1) * sliceLength)",
    ),
)

_INSIDE = "package/dist/"
_LEFT_OUT = re.compile(r"ort/|.*\.map$|(app-config|sw|google)\.js$|serve\.json$|_")
_HASHED = re.compile(r".*(^|\.)[0-9a-f]{16}\.\w+$")
_COMPRESSIBLE = (".js", ".css", ".wasm", ".svg", ".json", ".html")
_TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".woff2": "font/woff2", ".jsonc": "application/json"}


def installed(folder: Path, package: NpmPackage = OHIF) -> bool:
    """Say whether this version of the package is in `folder`, made as this program makes it."""
    found = ViewerFiles.read(folder)
    wanted = (package.name, package.version, _recipe())
    return found is not None and (found.package, found.version, found.recipe) == wanted


def _recipe() -> str:
    """What is done to the package, in short: an installation by another recipe is made anew."""
    return hashlib.sha256(repr((_MENDED, _LEFT_OUT, _COMPRESSIBLE, _TYPES)).encode()).hexdigest()[:16]


def fetch(package: NpmPackage, folder: Path) -> Path:
    """Have npm, as this machine has it set up, fetch the tarball into `folder`.

    Raises
    ------
    NotFound
        If there is no npm here, or it cannot get the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NotFound("npm is not installed; install it, or fetch the package elsewhere and give it with --from")
    command = [npm, "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 our own words
    found = next(folder.glob("*.tgz"), None)
    if done.returncode != 0 or found is None:
        raise NotFound(f"npm could not fetch {package.name} {package.version}: {done.stderr.strip()[-500:]}")
    return found


def install(tarball: Path, folder: Path, path: str, package: NpmPackage = OHIF) -> ViewerFiles:
    """Unpack a tarball to `folder`, for serving under `path`; what was there is replaced at the end.

    Raises
    ------
    InputError
        If it is not the package that is wanted, byte for byte, or not what a build of OHIF looks like.
    ConfigError
        If the folder cannot be written.
    """
    _check(tarball, package)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".viewer-") as staging:
            fresh = Path(staging) / "viewer"
            files = {name: _write(fresh, name, _moved(name, data, path)) for name, data in _members(tarball)}
            page = fresh / "index.html"
            if not page.is_file():
                raise InputError(f"{tarball} has no {_INSIDE}index.html")
            result = ViewerFiles(package.name, package.version, files, _scripts(page.read_text()), _recipe())
            result.write(fresh)
            if folder.exists():
                folder.rename(Path(staging) / "old")
            fresh.rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); set http.viewer to another folder") from None
    return result


def _check(tarball: Path, package: NpmPackage) -> None:
    algorithm, _, wanted = package.integrity.partition("-")
    with tarball.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, algorithm).digest()).decode()
    if digest != wanted:
        raise InputError(f"{tarball} is not {package.name} {package.version}: its {algorithm} is {digest}")


def _members(tarball: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix(_INSIDE)
            if name == member.name or not member.isfile() or _LEFT_OUT.match(name):
                continue
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise InputError(f"{tarball} reaches outside itself: {member.name}")
            content = archive.extractfile(member)
            assert content is not None
            yield name, content.read()


def _moved(name: str, data: bytes, path: str) -> bytes:
    """Make a file of the build for the root one for `path`."""
    to = f"{path}/".encode()
    if name == "index.html":
        data = re.sub(rb'(href|src|content)="/', rb'\1="' + to, data)
        return data.replace(b'PUBLIC_URL="/"', b'PUBLIC_URL="' + to + b'"')
    if name == "manifest.json":
        return data.replace(b'"src": "/', b'"src": "' + to)
    if name.endswith(".css"):
        return data.replace(b"url(/", b"url(" + to)
    if name.endswith(".js"):
        for wrong, right in _MENDED:
            data = data.replace(wrong, right)
        return data.replace(b'__webpack_require__.p = "/"', b'__webpack_require__.p = "' + to + b'"')
    return data


def _write(folder: Path, name: str, data: bytes) -> ViewerFile:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    compressed = target.suffix in _COMPRESSIBLE and len(data) > 1024
    if compressed:
        target.with_name(f"{target.name}.gz").write_bytes(gzip.compress(data, 6, mtime=0))
    media_type = _TYPES.get(target.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return ViewerFile(media_type, etag, _HASHED.match(target.name) is not None, compressed)


def _scripts(page: str) -> tuple[str, ...]:
    """Return the hashes of the scripts that stand in a page."""
    bodies = re.findall(r"<script>(.+?)</script>", page, re.DOTALL)
    digests = (hashlib.sha256(body.encode()).digest() for body in bodies)
    return tuple(f"sha256-{base64.b64encode(digest).decode()}" for digest in digests)
