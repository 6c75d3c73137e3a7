"""The models that are installed: what each accepts, what its output means, and the digest that pins it.

A model is a directory with a MONAI bundle and a `dicom.toml` (docs/models.md). Reading it needs neither
torch nor MONAI, so that the router and the front doors know the models without loading one.
Codes are those of PS3.16 (CID 7150 property category, CID 7151 property type, CID 7162 algorithm family).
"""

from imaging_ai.catalog.classes import Classifier
from imaging_ai.catalog.digest import bundle_digest
from imaging_ai.catalog.entry import ModelEntry, read_model
from imaging_ai.catalog.explaining import Explaining
from imaging_ai.catalog.installed import Catalog
from imaging_ai.catalog.limits import Limits
from imaging_ai.catalog.outputs import Outputs
from imaging_ai.catalog.running import RunOptions
from imaging_ai.catalog.segments import Measurements

__all__ = [
    "Catalog",
    "Classifier",
    "Explaining",
    "Limits",
    "Measurements",
    "ModelEntry",
    "Outputs",
    "RunOptions",
    "bundle_digest",
    "read_model",
]
