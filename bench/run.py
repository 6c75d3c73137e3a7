"""Every benchmark, one after the other: `make bench`. Each prints a table and, last, one line of JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHES = ("ingest.py", "latency.py", "encode.py", "infer.py", "dicomweb.py", "qido.py")


def main() -> int:
    """Run them; say which failed."""
    failed = []
    for name in sys.argv[1:] or BENCHES:
        print(f"\n=== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / name)], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
