"""DICOMweb (PS3.18): STOW-RS, QIDO-RS, WADO-RS, WADO-URI, UPS-RS and deletion, under `/dicom-web`."""
