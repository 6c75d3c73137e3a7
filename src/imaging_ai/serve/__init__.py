"""The HTTP side: health, metrics, jobs and studies (DICOMweb follows)."""
