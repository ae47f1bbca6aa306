"""Stream shuffled, transformed batches of training data from a shardstream cluster.

>>> import shardstream as ss
>>> ss.Client().bucket("digits").put("train-0000.tar", Path("train-0000.tar"))
>>> ds = ss.IterableDataset("ss://digits/train-*.tar", batch_size=256)
>>> for batch in ds:
...     ...

Importing this is cheap: no thread, no Go, no numpy, no torch. `IterableDataset` and `Mixture`
are looked up when they are first used: they are torch's IterableDatasets where torch is
installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._backends import BackendInfo, CacheInfo, SecretInfo, Secrets
from ._bucket import Bucket
from ._client import Client
from ._etl_models import (
    ETLField,
    ETLHealth,
    ETLInfo,
    ETLStats,
    ETLStatus,
    ETLTarget,
    ETLTrial,
)
from ._etls import ETLs
from ._exceptions import (
    BackendBusyError,
    BackendError,
    BadArchiveError,
    BusyError,
    ClosedError,
    ConflictError,
    CorruptError,
    DeadlineError,
    ETLError,
    ForkedError,
    IntegrityError,
    InternalError,
    JobAbortedError,
    NoSpaceError,
    NotFoundError,
    PreconditionError,
    RangeError,
    RequestError,
    SampleCorruptError,
    SampleDecodeError,
    SampleError,
    SampleETLError,
    ShardstreamError,
    SkippedSampleWarning,
    SnapshotChangedError,
    TooManyErrors,
    UnavailableError,
)
from ._jobs import Job, Jobs
from ._models import (
    BucketInfo,
    Copy,
    Explanation,
    JobFailure,
    JobStatus,
    Location,
    ObjectInfo,
    SampleOrigin,
)
from ._parts import Source
from ._rebalance import Rebalance
from ._version import __version__

if TYPE_CHECKING:
    from ._batch import Batch, BytesColumn
    from .torch import IterableDataset, Mixture

__all__ = [
    "BackendBusyError",
    "BackendError",
    "BackendInfo",
    "BadArchiveError",
    "Batch",
    "Bucket",
    "BucketInfo",
    "BusyError",
    "BytesColumn",
    "CacheInfo",
    "Client",
    "ClosedError",
    "ConflictError",
    "Copy",
    "CorruptError",
    "DeadlineError",
    "ETLError",
    "ETLField",
    "ETLHealth",
    "ETLInfo",
    "ETLStats",
    "ETLStatus",
    "ETLTarget",
    "ETLTrial",
    "ETLs",
    "Explanation",
    "ForkedError",
    "IntegrityError",
    "InternalError",
    "IterableDataset",
    "Job",
    "JobAbortedError",
    "JobFailure",
    "JobStatus",
    "Jobs",
    "Location",
    "Mixture",
    "NoSpaceError",
    "NotFoundError",
    "ObjectInfo",
    "PreconditionError",
    "RangeError",
    "Rebalance",
    "RequestError",
    "SampleCorruptError",
    "SampleDecodeError",
    "SampleETLError",
    "SampleError",
    "SampleOrigin",
    "SecretInfo",
    "Secrets",
    "ShardstreamError",
    "SkippedSampleWarning",
    "SnapshotChangedError",
    "Source",
    "TooManyErrors",
    "UnavailableError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Look up what needs numpy or torch, at its first use."""
    value: Any
    if name in ("IterableDataset", "Mixture"):
        value = _dataset_class(name)
    elif name in ("Batch", "BytesColumn"):
        from . import _batch

        value = getattr(_batch, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _dataset_class(name: str) -> Any:
    """The torch class where torch can be imported, else the plain one."""
    import importlib
    import importlib.util

    if importlib.util.find_spec("torch") is not None:
        module = ".torch"
    else:
        module = "._mixture" if name == "Mixture" else "._dataset"
    return getattr(importlib.import_module(module, __name__), name)
