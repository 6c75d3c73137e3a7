"""``python -m fuzz SECONDS [TARGET …]``: fuzz each target for so long, with coverage as the guide (Atheris, libFuzzer).

What is found is written to ``tests/fuzz/found/TARGET``, where the tests take it from: mend it, keep the file, add it to
the repository. The corpus grows in ``$FUZZ_CORPUS`` (default: a folder in the system's for temporary files).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE / "found"
_LARGEST, _SLOWEST, _MEGABYTES = 4_096, 10, 2_048


def one(target: str, arguments: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["imaging_ai", "msgspec", "xml"]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def main(seconds: int, names: list[str]) -> int:
    """Fuzz targets one after the other; return how many had a finding."""
    from fuzz.seeds import SEEDS

    corpus = Path(os.environ.get("FUZZ_CORPUS") or Path(tempfile.gettempdir()) / "imaging-ai-fuzz")
    failed = 0
    for name in names or SEEDS:
        folder, found = corpus / name, FOUND / name
        folder.mkdir(parents=True, exist_ok=True)
        found.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]()):
            (folder / f"seed-{number}").write_bytes(seed)
        options = {
            "max_total_time": seconds,
            "max_len": _LARGEST,
            "timeout": _SLOWEST,
            "rss_limit_mb": _MEGABYTES,
            "artifact_prefix": f"{found}/",
            "print_final_stats": 1,
        }
        words = [str(folder), *(f"-{key}={value}" for key, value in options.items())]
        print(f"== {name}", flush=True)
        failed += subprocess.run([sys.executable, "-m", "fuzz", "--one", name, *words], check=False).returncode != 0
        if not any(found.iterdir()):
            found.rmdir()
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]) > 0)
