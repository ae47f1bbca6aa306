"""Times as the cluster writes them."""

from __future__ import annotations

from datetime import datetime, timezone


def time_of(text: str | None) -> datetime | None:
    """An RFC 3339 time; Go writes up to nine decimals, Python 3.10 reads six."""
    if not text:
        return None
    stem, dot, rest = text.removesuffix("Z").partition(".")
    if dot:
        digits = rest.split("+")[0].split("-")[0]
        stem += f".{digits[:6]:0<6}" + rest[len(digits) :]
    parsed = datetime.fromisoformat(stem)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)
