"""Results to DICOM objects: SEG, SR, Parametric Map, Secondary Capture, Key Object notes, and the check each must pass.

PS3.3 A.51, A.35.13, A.75, A.8.1, A.35.4.

results    the whole set of objects of one job; refusal  the report that there are none, and why
provenance what all of them share: patient, study, equipment, times, identifiers
source     the source's patient and study attributes, cleaned, and where its planes lie
planes     what the multi-frame objects share: their grid, and the item of each frame
seg        Segmentation           sr   Comprehensive 3D SR, TID 1500        kos  Key Object Selection, TID 2010
pm         Parametric Map         sc   Secondary Capture
iod        the standard's tables  validate  promise 4: what fails here does not leave
"""

from imaging_ai.encode.objects import EncodedObject, Predecessor
from imaging_ai.encode.refusal import encode_refusal
from imaging_ai.encode.results import encode_results
from imaging_ai.encode.validate import check

__all__ = ["EncodedObject", "Predecessor", "check", "encode_refusal", "encode_results"]
