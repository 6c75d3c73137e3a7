"""A receiver loads neither models nor pixel decoders."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sys
from imaging_ai.receive.lean import leave_out_decoders
leave_out_decoders()
import imaging_ai.receive.scp
print(sorted(name for name in ("gdcm", "PIL", "torch", "monai", "highdicom") if sys.modules.get(name)))
"""


def test_a_receiver_loads_neither_models_nor_pixel_decoders() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
