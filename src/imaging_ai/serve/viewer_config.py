"""The configuration that OHIF reads at its start, `app-config.js`: this server's DICOMweb on the same origin.

The last lines keep OHIF 3.13 from failing on reports of volumes: it looks for coordinates in every measurement group, a
group that refers to a segment (TID 1411) has none, and POLYGON (PS3.3 C.18.9.1.2) is not among the shapes it knows.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["app_config"]

_WORK_LIST = "imaging-ai"

_REPORTS_OF_VOLUMES = """
window.config.customizationService = [{
  onBeforeSRAddMeasurement: { $set: ({ measurement }) => {
    if (!measurement.coords.length) measurement.coords.push({});
    for (const one of measurement.coords) {
      if (one.ValueType === 'SCOORD3D' && one.GraphicType === 'POLYGON') one.GraphicType = 'POLYLINE';
    }
    return measurement;
  } },
}];
"""


def app_config(path: str, dicomweb: str, *, upload: bool = True) -> bytes:
    """Write the configuration of a viewer that lies at `path`, with the DICOMweb service at `dicomweb`."""
    source: dict[str, Any] = {
        "friendlyName": _WORK_LIST,
        "name": _WORK_LIST,
        "qidoRoot": dicomweb,
        "wadoRoot": dicomweb,
        "wadoUriRoot": dicomweb,
        "qidoSupportsIncludeField": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "supportsReject": False,
        "dicomUploadEnabled": upload,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "staticWado": False,
        "singlepart": "bulkdata,video,pdf",
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    }
    config = {
        "routerBasename": path,
        "extensions": [],
        "modes": [],
        "showStudyList": True,
        "investigationalUseDialog": {"option": "never"},
        "showLoadingIndicator": True,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": False,
        "strictZSpacingForVolumeViewport": True,
        "maxNumberOfWebWorkers": 3,
        "maxNumRequests": {"interaction": 100, "thumbnail": 75, "prefetch": 25},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "dicomweb",
                "configuration": source,
            }
        ],
    }
    return b"window.config = " + msgspec.json.format(msgspec.json.encode(config)) + b";" + _REPORTS_OF_VOLUMES.encode()
