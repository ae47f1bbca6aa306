"""What can go wrong, as a tree.

::

    ShardstreamError                 .code (stable, for programs), .status (HTTP, or None)
    ├── RequestError                 the cluster refused the request as it stands
    │   ├── BadArchiveError          an archive that can't be indexed: names the byte offset
    │   └── RangeError               a range that lies outside the object
    ├── NotFoundError                no such object, member, bucket, ETL or job; no match
    ├── ConflictError                it exists already, or a bucket is not empty
    │   ├── PreconditionError        If-Match or If-None-Match did not hold
    │   └── SnapshotChangedError     an object was overwritten since the epoch's snapshot
    ├── IntegrityError               bytes did not match their checksum, or were too few
    │   └── CorruptError             a stored copy is damaged: names object, block and disk
    ├── ETLError                     user code raised: carries its traceback
    ├── SampleError                  a sample could not be delivered: names it
    │   ├── SampleDecodeError        because a field is not what its decoder takes
    │   ├── SampleETLError           because user code raised (also an ETLError)
    │   ├── SampleCorruptError       because its bytes are damaged (also a CorruptError)
    │   └── TooManyErrors            more samples failed than max_errors allows
    ├── UnavailableError             the cluster, or a node that is needed, can't answer now
    │   ├── BusyError                too many requests
    │   └── NoSpaceError             a disk is full
    ├── BackendError                 a bucket's backend failed, or refuses the credentials
    │   └── BackendBusyError         it asks to be left alone, or is away (also an UnavailableError)
    ├── DeadlineError                nothing came in time (also a TimeoutError)
    ├── JobAbortedError              a job was aborted before its end
    ├── ForkedError                  Go was in use before this process was forked (RuntimeError)
    ├── ClosedError                  the dataset or the client was closed (RuntimeError)
    └── InternalError                a fault of shardstream's own

Arguments that are wrong before anything is sent raise ValueError or TypeError.
"""

from __future__ import annotations


class ShardstreamError(Exception):
    """Base of all errors here.

    Attributes:
        code: the stable code of the error, as in the REST API's error document.
        status: the HTTP status that it came with, or None.
    """

    default_code = "internal"

    # The message alone must suffice: a torch worker's exception is made anew from its text.
    def __init__(self, message: str = "", *, code: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.status = status


class RequestError(ShardstreamError):
    """The cluster refused the request as it stands."""

    default_code = "bad_request"


class BadArchiveError(RequestError):
    """An archive can't be indexed; the message gives the byte offset and the reason."""

    default_code = "bad_archive"


class RangeError(RequestError):
    """A range lies outside the object."""

    default_code = "range"


class NotFoundError(ShardstreamError):
    """No such object, member, bucket, ETL, job or snapshot, or a source that matches nothing."""

    default_code = "not_found"


class ConflictError(ShardstreamError):
    """What is there already stands in the way."""

    default_code = "already_exists"


class PreconditionError(ConflictError):
    """The object is not the one that If-Match or If-None-Match asked for."""

    default_code = "precondition"


class SnapshotChangedError(ConflictError):
    """The data is no longer what the epoch, or the saved state, was made from."""

    default_code = "snapshot_changed"


class IntegrityError(ShardstreamError):
    """Bytes that arrived do not match their checksum, or are too few."""

    default_code = "bad_checksum"


class CorruptError(IntegrityError):
    """A stored copy is damaged; the message names the object, the block and the disk."""

    default_code = "corrupt"


class ETLError(ShardstreamError):
    """A transformation raised; the message has its traceback and names the sample."""

    default_code = "etl_failed"


class SampleError(ShardstreamError):
    """A sample could not be delivered; the message names it and says why."""

    default_code = "sample_error"


class SampleDecodeError(SampleError):
    """A field is not what its decoder takes; the message names the sample, field and value."""

    default_code = "decode_failed"


class SampleETLError(SampleError, ETLError):
    """User code raised on a sample; the message names it and has the traceback."""

    default_code = "etl_failed"


class SampleCorruptError(SampleError, CorruptError):
    """The stored bytes of a sample are damaged."""

    default_code = "corrupt"


class TooManyErrors(SampleError):
    """More samples were left out than max_errors allows; the message counts them by reason."""

    default_code = "too_many_errors"


class UnavailableError(ShardstreamError):
    """The cluster, or the one node that has the data, can't answer now."""

    default_code = "unavailable"


class BusyError(UnavailableError):
    """Too many requests at once."""

    default_code = "busy"


class NoSpaceError(UnavailableError):
    """A disk is full; nothing was stored."""

    default_code = "no_space"


class BackendError(ShardstreamError):
    """A bucket's backend failed, or refuses the credentials; the message says what it said."""

    default_code = "backend_failed"


class BackendBusyError(BackendError, UnavailableError):
    """A bucket's backend asks to be left alone for a while, or does not answer."""

    default_code = "backend_busy"


class DeadlineError(ShardstreamError, TimeoutError):
    """Nothing came in time."""

    default_code = "timeout"


class JobAbortedError(ShardstreamError):
    """A job was aborted before its end."""

    default_code = "aborted"


class ForkedError(ShardstreamError, RuntimeError):
    """The native loader was in use before this process was forked."""

    default_code = "forked"


class ClosedError(ShardstreamError, RuntimeError):
    """The dataset or the client is closed."""

    default_code = "closed"


class InternalError(ShardstreamError):
    """A fault of shardstream's own: please report it."""

    default_code = "internal"


class SkippedSampleWarning(UserWarning):
    """Samples were left out of a batch, as on_error="warn" asks."""


_BY_CODE: dict[str, type[ShardstreamError]] = {
    "bad_request": RequestError,
    "bad_name": RequestError,
    "method_not_allowed": RequestError,
    "read_only": RequestError,
    "bad_archive": BadArchiveError,
    "range": RangeError,
    "not_found": NotFoundError,
    "no_such_bucket": NotFoundError,
    "no_such_etl": NotFoundError,
    "no_such_job": NotFoundError,
    "no_such_secret": NotFoundError,
    "no_such_snapshot": NotFoundError,
    "no_match": NotFoundError,
    "already_exists": ConflictError,
    "bucket_not_empty": ConflictError,
    "precondition": PreconditionError,
    "changed": SnapshotChangedError,
    "snapshot_changed": SnapshotChangedError,
    "bad_checksum": IntegrityError,
    "incomplete_body": IntegrityError,
    "corrupt": CorruptError,
    "etl_failed": ETLError,
    "sample_error": SampleError,
    "too_many_errors": TooManyErrors,
    "busy": BusyError,
    "unavailable": UnavailableError,
    "backend_failed": BackendError,
    "backend_denied": BackendError,
    "backend_loop": BackendError,
    "backend_busy": BackendBusyError,
    "no_space": NoSpaceError,
    "timeout": DeadlineError,
    "closed": ClosedError,
    "aborted": JobAbortedError,
}

_BY_STATUS: dict[int, type[ShardstreamError]] = {
    404: NotFoundError,
    409: ConflictError,
    412: PreconditionError,
    416: RangeError,
    422: ETLError,
    429: BusyError,
    503: UnavailableError,
    504: UnavailableError,
    507: NoSpaceError,
}


def from_code(code: str, message: str, status: int | None = None) -> ShardstreamError:
    """The exception for an error code; a code that is not known falls back on the status."""
    kind = _BY_CODE.get(code)
    if kind is None and status is not None:
        kind = _BY_STATUS.get(status) or (RequestError if 400 <= status < 500 else None)
    return (kind or InternalError)(message, code=code, status=status)


def from_sample(text: str) -> SampleError:
    """The exception for a sample's failure: "code: message"."""
    code, colon, message = text.partition(": ")
    if not colon or " " in code:
        return SampleError(text)
    kinds = {
        "corrupt": SampleCorruptError,
        "decode_failed": SampleDecodeError,
        "etl_failed": SampleETLError,
    }
    return kinds.get(code, SampleError)(message, code=code)
