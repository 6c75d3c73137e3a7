"""The configuration that OHIF reads at its start, `app-config.js`: this server's DICOMweb on the same origin.

What keeps OHIF from failing on some objects is beside this file, in `viewer_repairs.js`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

__all__ = ["app_config"]

_WORK_LIST = "imaging-ai"


def app_config(path: str, dicomweb: str) -> bytes:
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
        "dicomUploadEnabled": True,
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
        "customizationService": [],
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
    repairs = Path(__file__).with_name("viewer_repairs.js").read_bytes()
    return b"window.config = " + msgspec.json.format(msgspec.json.encode(config)) + b";\n" + repairs
