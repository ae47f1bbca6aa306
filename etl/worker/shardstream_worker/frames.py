"""The layout of what travels between node and worker; ``etl/frame.go`` is the text of record.

Frames are little-endian: a fixed head, the key, a description of the fields, then the payloads that
do not lie in the shared memory.
"""

from __future__ import annotations

import struct

SOCKET_FD = 3
STATUS_FD = 4
ARENA_FD = 5

REQUEST_HEAD = struct.Struct("<4sBBHQQIIQ")  # magic kind flags fields seq seed meta key data
RESULT_HEAD = struct.Struct("<4sBBHQIIQ")  # magic kind flags fields seq meta key data
FIELD_HEAD = struct.Struct("<HBBQQ")  # name, dtype, dimensions, bytes, place
REQUEST_MAGIC = b"SSQ2"
RESULT_MAGIC = b"SSR2"

REQUEST_INIT, REQUEST_SAMPLE, REQUEST_OBJECT, REQUEST_BATCH = 1, 2, 3, 4
REQUEST_ARGS, REQUEST_STREAM, REQUEST_PIECE = 5, 6, 7
RESULT_READY, RESULT_BROKEN, RESULT_SAMPLE, RESULT_ERROR = 1, 2, 3, 4
RESULT_COLUMNS, RESULT_PIECE, RESULT_DONE = 5, 6, 7

FLAG_FLUSH = 1  # of requests: no more follow for now
FLAG_FIRST = 2  # of requests: the answers before this one have been read
FLAG_LAST = 4  # of requests: of a batch, or of the pieces of an object
FLAG_ABORT = 8  # of requests: the object can't be read to its end
FLAG_STREAMS = 1  # of READY: the function reads its object as a file
FLAG_FINAL = 1  # of ERROR: another way to call it would not help
FLAG_ARGS = 2  # of ERROR: the arguments do not fit the function

INLINE = (1 << 64) - 1  # as a place: behind the frame
ECHO = 1 << 63  # as a place of a result: bytes of the request, by sample << 16 | field
ROWS = 255  # as a dtype of a column: values of their own, one for each sample

# Smaller payloads go inline, larger ones over the shared memory.
SHARED_FROM = 4 << 10
# Bytes that come back as they went need not travel; below this looking for them costs more.
ECHO_FROM = 512
SEND_ABOVE = 256 << 10
PIECE = 256 << 10

MAX_DIMS = 8
MAX_FIELDS = 4096
MAX_NAME = 1000
MAX_KEY = 4096
MAX_ERROR = 16 << 10

MODULE = "shardstream_etl"  # the name under which user code is loaded


class ReturnError(TypeError):
    """The function returned something that can't travel.

    Final says that it would not help to give the function fewer samples at a time.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        """Take what the user is told."""
        super().__init__(text)
        self.final = final


class BrokenError(Exception):
    """The definition can't be loaded; the text goes to the user as it is."""


class ArgumentsError(TypeError):
    """The arguments of a request do not fit the function."""
