"""A server as AIStore's documentation writes it: a subclass of one of its SDK's servers.

Run by an interpreter that has the SDK: aistoreserver.py http|flask|fastapi buffered|streaming PORT
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

BASES = {
    "http": ("http_multi_threaded_server", "HTTPMultiThreadedServer"),
    "flask": ("flask_server", "FlaskServer"),
    "fastapi": ("fastapi_server", "FastAPIServer"),
}
kind, form, port = sys.argv[1:]
module, name = BASES[kind]
Base: Any = getattr(importlib.import_module(f"aistore.sdk.etl.webserver.{module}"), name)


def suffix_of(etl_args: str) -> bytes:
    return str(json.loads(etl_args)["suffix"]).encode() if etl_args else b""


class Buffered(Base):  # type: ignore[misc]
    def transform(self, data: bytes, path: str, etl_args: str) -> bytes:
        if data == b"bad":
            raise ValueError("too dark")
        return data.upper() + suffix_of(etl_args)


class Streaming(Base):  # type: ignore[misc]
    def transform_stream(self, reader: BinaryIO, path: str, etl_args: str) -> Iterator[bytes]:
        while chunk := reader.read(65536):
            if chunk == b"bad":
                raise ValueError("too dark")
            yield chunk.upper()
        yield suffix_of(etl_args)


server: Any = {"buffered": Buffered, "streaming": Streaming}[form]
server(host="127.0.0.1", port=int(port)).start()
