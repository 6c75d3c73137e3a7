"""The one error tree, and what each kind means to a peer.

Every error that this program raises on purpose descends from `ImagingAiError`. A class carries, as
data, the three things the edges need: the DIMSE status a C-STORE peer gets (PS3.4 B.2.3, PS3.7 C),
the HTTP status a web client gets (RFC 9457 problem document), and whether trying again may help.

    ImagingAiError
    ├── ConfigError               the settings are wrong: exit code 2, names file, key and remedy
    ├── InputError                what a peer or a person gave cannot be taken
    │   ├── NotDicom              cannot be understood as a DICOM instance
    │   ├── DatasetMismatch       data set and command (or path) disagree
    │   ├── UnsupportedSopClass   a SOP class or transfer syntax that is not accepted here
    │   │   └── UnsupportedTransferSyntax
    │   ├── TooLarge              over a configured limit
    │   ├── InstanceConflict      same SOP Instance UID, other content, and the policy keeps the first
    │   ├── BadParameterError     a parameter of a request has a value that cannot be taken; names it
    │   ├── NotAcceptable         no media type or transfer syntax that is wanted can be given
    │   ├── UnsupportedMediaType  a body of a kind that is not taken here
    │   ├── RangeNotSatisfiable   a range past the end of what there is
    │   ├── TooSlow               a body that does not come
    │   ├── NotFound              the named thing does not exist
    │   │   └── Gone              it existed and was deleted
    │   ├── NotAllowed            whoever asks may not do this
    │   ├── OverLimit             more than whoever asks may bring or ask for; passing
    │   └── WrongState            the named thing is in no state for what was asked
    │       └── OnHold            a legal hold keeps it
    ├── UnavailableError          a part of this server is down or full; passing, worth a retry
    │   ├── StorageUnavailable
    │   │   ├── StorageCorrupted  stored bytes were changed, moved or cut short
    │   │   └── KeyUnavailable    they are encrypted, and their key cannot be had
    │   ├── DatabaseUnavailable
    │   └── BrokerUnavailable
    ├── ModelError                a job cannot produce a result
    │   ├── SeriesRefused         the model must not run on this series (coded reason)
    │   ├── BundleInvalid         the bundle is broken, changed, or asks for what is forbidden
    │   ├── ModelFailed           the network raised, hung, or answered nonsense
    │   ├── ModelOutOfMemory      passing: may fit on another worker or with smaller windows
    │   └── ModelProcessDied      the process that ran the model ended; passing, for so many attempts
    ├── InternalError             nobody foresaw it; the log says where
    ├── ResultInvalid             an encoded result failed validation and will not leave
    └── DeliveryError
        ├── DeliveryRefused       permanent: the destination said no, and will say no again
        └── DeliveryUnavailable   passing: unreachable, busy, aborted
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadParameterError",
    "BrokerUnavailable",
    "BundleInvalid",
    "ConfigError",
    "DatabaseUnavailable",
    "DatasetMismatch",
    "DeliveryError",
    "DeliveryRefused",
    "DeliveryUnavailable",
    "Gone",
    "ImagingAiError",
    "InputError",
    "InstanceConflict",
    "InternalError",
    "KeyUnavailable",
    "ModelError",
    "ModelFailed",
    "ModelOutOfMemory",
    "ModelProcessDied",
    "NotAcceptable",
    "NotAllowed",
    "NotDicom",
    "NotFound",
    "OnHold",
    "OverLimit",
    "RangeNotSatisfiable",
    "ResultInvalid",
    "SeriesRefused",
    "StorageCorrupted",
    "StorageUnavailable",
    "TooLarge",
    "TooSlow",
    "UnavailableError",
    "UnsupportedMediaType",
    "UnsupportedSopClass",
    "UnsupportedTransferSyntax",
    "WrongState",
]


class ImagingAiError(Exception):
    """Anything that went wrong and has a name here.

    `message` is written for the peer or the operator: it names the thing and the remedy, and never
    carries patient data.
    """

    code: ClassVar[str] = "error"
    dimse_status: ClassVar[int] = 0x0110  # Processing failure
    http_status: ClassVar[int] = 500
    retry: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(ImagingAiError):
    """Raised when the settings cannot be used; names file, key and remedy."""

    code = "config"


class InputError(ImagingAiError):
    """Raised when what was given cannot be taken, whoever gave it."""

    code = "bad-input"
    dimse_status = 0xC000  # Cannot understand
    http_status = 400


class NotDicom(InputError):
    """Raised when bytes cannot be understood as a DICOM instance."""

    code = "not-dicom"


class DatasetMismatch(InputError):
    """Raised when the data set contradicts the command or the path it came with."""

    code = "dataset-mismatch"
    dimse_status = 0xA900
    http_status = 409


class UnsupportedSopClass(InputError):
    """Raised when a SOP class or transfer syntax is not accepted here."""

    code = "unsupported-sop-class"
    dimse_status = 0x0122
    http_status = 409


class UnsupportedTransferSyntax(UnsupportedSopClass):
    """Raised when the transfer syntax of an instance is not accepted here."""

    code = "unsupported-transfer-syntax"
    dimse_status = 0xC122  # PS3.18 table I.2-2


class TooLarge(InputError):
    """Raised when something exceeds a configured limit."""

    code = "too-large"
    dimse_status = 0xA700
    http_status = 413


class InstanceConflict(InputError):
    """Raised when a SOP Instance UID is already held with other content."""

    code = "instance-conflict"
    dimse_status = 0x0111  # Duplicate SOP instance
    http_status = 409


class NotFound(InputError):
    """Raised when the named thing does not exist."""

    code = "not-found"
    http_status = 404


class Gone(NotFound):
    """Raised when the named thing was here and has been deleted."""

    code = "gone"
    http_status = 410


class BadParameterError(InputError):
    """Raised when a parameter of a request has a value that cannot be taken; `message` never repeats the value."""

    code = "bad-parameter"

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter, self.reason = parameter, message

    def __reduce__(self) -> tuple[type[BadParameterError], tuple[str, str]]:
        return type(self), (self.parameter, self.reason)


class NotAcceptable(InputError):
    """Raised when no representation that a client wants can be given (PS3.18 8.7)."""

    code = "not-acceptable"
    http_status = 406


class UnsupportedMediaType(InputError):
    """Raised when a body is of a kind that is not taken."""

    code = "unsupported-media-type"
    http_status = 415


class RangeNotSatisfiable(InputError):
    """Raised when a byte range lies past the end of what there is."""

    code = "range-not-satisfiable"
    http_status = 416


class TooSlow(InputError):
    """Raised when a peer does not send what it announced."""

    code = "too-slow"
    http_status = 408


class NotAllowed(InputError):
    """Raised when whoever asks may not do this."""

    code = "not-allowed"
    dimse_status = 0x0124  # Refused: not authorized
    http_status = 403


class OverLimit(InputError):
    """Raised when a peer or a program brings or asks for more than it may; passing after `retry_after` seconds."""

    code = "over-limit"
    dimse_status = 0xA700  # Refused: out of resources
    http_status = 429
    retry = True

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[OverLimit], tuple[str, float]]:
        return type(self), (self.message, self.retry_after)


class WrongState(InputError):
    """Raised when the named thing is in no state for what was asked of it."""

    code = "wrong-state"
    http_status = 409


class OnHold(WrongState):
    """Raised when something is to be deleted that a legal hold keeps."""

    code = "on-hold"


class UnavailableError(ImagingAiError):
    """Raised when a part of this server is down or full; trying again may help."""

    code = "unavailable"
    dimse_status = 0xA700  # Refused: out of resources
    http_status = 503
    retry = True


class StorageUnavailable(UnavailableError):
    """Raised when the object storage cannot take or give bytes."""

    code = "storage-unavailable"


class StorageCorrupted(StorageUnavailable):
    """Raised when stored bytes are not those that were stored: changed, moved or cut short."""

    code = "storage-corrupted"


class KeyUnavailable(StorageUnavailable):
    """Raised when the key of encrypted bytes is not known here, or the key service does not answer."""

    code = "key-unavailable"


class DatabaseUnavailable(UnavailableError):
    """Raised when the database cannot be reached or does not answer in time."""

    code = "database-unavailable"


class BrokerUnavailable(UnavailableError):
    """Raised when the doorbell cannot be rung; the ledger still holds the work."""

    code = "broker-unavailable"


class ModelError(ImagingAiError):
    """Raised when a job cannot produce a result."""

    code = "model"


class SeriesRefused(ModelError):
    """Raised when a model must not run on a series; `reason` is a short coded word."""

    code = "series-refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SeriesRefused], tuple[str, str]]:
        return type(self), (self.reason, self.message)


class BundleInvalid(ModelError):
    """Raised when a model bundle is broken, was changed, or asks for what is forbidden."""

    code = "bundle-invalid"


class ModelFailed(ModelError):
    """Raised when a network raised, hung, died, or answered nonsense."""

    code = "model-failed"


class ModelOutOfMemory(ModelError):
    """Raised when a model ran out of memory on this device; another try may fit."""

    code = "model-out-of-memory"
    retry = True


class ModelProcessDied(ModelError):
    """Raised when the process that ran a model crashed, was ended, or said what it cannot mean."""

    code = "model-process-died"
    retry = True


class InternalError(ImagingAiError):
    """Raised in place of another library's error in a model's process; its type is told, and nothing that it said."""

    code = "internal-error"


class ResultInvalid(ImagingAiError):
    """Raised when an encoded result fails validation; it does not leave the server."""

    code = "result-invalid"


class DeliveryError(ImagingAiError):
    """Raised when a result did not reach its destination."""

    code = "delivery"


class DeliveryRefused(DeliveryError):
    """Raised when the destination refused for good."""

    code = "delivery-refused"


class DeliveryUnavailable(DeliveryError):
    """Raised when the destination could not be reached or could not take it now."""

    code = "delivery-unavailable"
    retry = True
