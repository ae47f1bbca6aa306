"""Exceptions of user code, as frames."""

from __future__ import annotations

import os
import traceback

from .frames import (
    FLAG_ARGS,
    FLAG_FINAL,
    MAX_ERROR,
    MODULE,
    RESULT_HEAD,
    RESULT_MAGIC,
    ArgumentsError,
    BrokenError,
    ReturnError,
)

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def _describe(exc: BaseException) -> tuple[str, str]:
    """Return a summary line and the traceback without the worker's own frames."""
    kind = type(exc)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", MODULE):
        name = f"{kind.__module__}.{name}"
    if isinstance(exc, (ReturnError, ArgumentsError)):
        return f"TypeError: {exc}", ""
    if isinstance(exc, BrokenError):
        return str(exc), ""
    try:
        text = str(exc)
    except Exception:  # user code may do anything in __str__
        text = "<unprintable>"
    summary = f"{name}: {text}" if text else name
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_HERE):
        frames = frames.tb_next
    try:
        full = "".join(
            traceback.TracebackException(kind, exc, frames, compact=True).format()
        ).rstrip()
    except Exception:
        full = summary
    if len(full) > MAX_ERROR:
        full = full[: MAX_ERROR // 2] + "\n  ...\n" + full[-MAX_ERROR // 2 :]
    return summary.split("\n", 1)[0][:2000], full


def error_frame(kind: int, seq: int, exc: BaseException) -> bytes:
    """Encode an exception; the key length stands for the summary's."""
    flags = 0
    if isinstance(exc, ArgumentsError):
        flags = FLAG_ARGS
    elif isinstance(exc, ReturnError) and exc.final:
        flags = FLAG_FINAL
    summary, full = _describe(exc)
    first = summary.encode("utf-8", "replace")
    rest = full.encode("utf-8", "replace")
    return (
        RESULT_HEAD.pack(RESULT_MAGIC, kind, flags, 0, seq, len(rest), len(first), 0) + first + rest
    )
