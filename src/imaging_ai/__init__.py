"""An AI result server for radiology: DICOM in, models on it, DICOM results back to the PACS."""

__version__ = "0.1.0"
