"""`python -m shardstream.etl FILE.py`: serve the function of a file."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from . import serve
from ._function import LEVELS


def load(path: str, entry: str) -> Callable[..., Any]:
    """Run a file and return its function."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))  # its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError as error:
        if error.filename != path:
            _refuse(error, path)
        raise SystemExit(f"{path!r} can't be read: {error.strerror}") from None
    except Exception as error:
        _refuse(error, path)
    function = getattr(module, entry, None)
    if not callable(function):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise SystemExit(
            f"{path} has no function {entry!r}; it has {', '.join(there) or 'none'} (--entry)"
        )
    return function  # type: ignore[no-any-return]


def _refuse(error: Exception, path: str) -> NoReturn:
    """End with what is wrong with a file that does not load, and where in it."""
    frames = traceback.extract_tb(error.__traceback__)
    here = [f for f in frames if os.path.abspath(f.filename) == os.path.abspath(path)]
    lines = [*traceback.format_list(here), *traceback.format_exception_only(error)]
    raise SystemExit(f"{path} does not load:\n{''.join(lines).rstrip()}") from None


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m shardstream.etl", description="Serve a function to a shardstream cluster."
    )
    parser.add_argument("file", help="Python file that defines the function")
    parser.add_argument("--entry", default="transform", help="the function (default: transform)")
    parser.add_argument("--level", default="object", choices=LEVELS)
    parser.add_argument(
        "--address",
        help="HOST:PORT or the path of a Unix socket (default: $SHARDSTREAM_SOCKET, "
        "$SHARDSTREAM_LISTEN, port $PORT of all interfaces, or 127.0.0.1:8000)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="processes that call it (default: 1; 0: $SHARDSTREAM_WORKERS, or one for each CPU)",
    )
    parser.add_argument("--threads", type=int, help="calls at once in each process")
    parser.add_argument("--content-type", default="application/octet-stream")
    options = parser.parse_args(argv)
    try:
        serve(
            load(options.file, options.entry),
            level=options.level,
            address=options.address,
            processes=options.processes,
            threads=options.threads,
            content_type=options.content_type,
        )
    except OSError as error:
        raise SystemExit(error.strerror or str(error)) from None
    except (ValueError, TypeError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
