"""A definition becomes a function."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import linecache
import pickle
import re
import sys
import types
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from .frames import MODULE, BrokenError

Function = Callable[..., Any]

#: Annotations of an object function that wants a file instead of bytes.
_FILES = frozenset(
    {"BinaryIO", "IO[bytes]", "RawIOBase", "BufferedIOBase", "BufferedReader", "IOBase"}
)


def load(definition: dict[str, Any]) -> Function:
    """Execute the source, or unpickle the function, and return what is to be called."""
    for requirement in definition["requirements"]:
        _check_requirement(requirement)
    filename = f"{definition['name']}.py"
    module = types.ModuleType(MODULE)
    module.__file__ = filename
    sys.modules[module.__name__] = module
    if definition["pickle"]:
        function, told = _unpickled(definition), f"the pickled function of {definition['name']}"
    else:
        function = _executed(module, filename, definition["source"], definition["entry"])
        told = f"{definition['entry']!r} in {filename}"
    if not callable(function):
        raise BrokenError(f"TypeError: {told} is {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function):
        raise BrokenError(f"TypeError: {told} is async; define it with plain def")
    args = definition["args"] or {}
    try:
        inspect.signature(function).bind(None, **args)
    except TypeError as e:
        raise BrokenError(_unfit(told, function, args, e)) from None
    except ValueError:
        pass  # a builtin without a signature
    return function  # type: ignore[no-any-return]


def _unfit(told: str, function: Function, args: dict[str, Any], error: TypeError) -> str:
    if args:
        names = ", ".join(args)
        return (
            f"TypeError: {told} must take one argument and, by name, those that args give "
            f"({names}); it is {told_signature(function)}: {error}"
        )
    return (
        f"TypeError: {told} must take one argument; others need a default, in its signature or in "
        f"args: {error}"
    )


def told_signature(function: Function) -> str:
    """The signature as a message shows it, without annotations."""
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    plain = signature.replace(
        parameters=[p.replace(annotation=empty) for p in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    return f"{getattr(function, '__name__', 'transform')}{plain}"


def _executed(module: types.ModuleType, filename: str, source: str, entry: str) -> Any:
    # With no time stamp, linecache never looks for the file: tracebacks show the user's lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    function = getattr(module, entry, None)
    if function is None:
        there = [
            n
            for n, v in vars(module).items()
            if inspect.isfunction(v) and v.__module__ == module.__name__
        ]
        found = f"it defines {', '.join(there[:20])}" if there else "it defines no function"
        raise BrokenError(f"NameError: {filename} has no function {entry!r}; {found}")
    return function


def _unpickled(definition: dict[str, Any]) -> Any:
    """The function that cloudpickle has made bytes of; only the same Python runs its code."""
    here = "{}.{}".format(*sys.version_info[:2])
    made = definition["python"]
    if made and made != here:
        raise BrokenError(
            f"the function was pickled by Python {made}, whose pickles Python {here} "
            f"({sys.executable}) can't run: create it from Python {here}, start the nodes with "
            f"SHARDSTREAM_PYTHON naming a Python {made}, or send its source (by='source')"
        )
    try:
        importlib.import_module("cloudpickle")
    except ModuleNotFoundError:
        raise BrokenError(
            f"the function was sent by cloudpickle, which is not installed in {sys.executable} "
            f"(Python {here}): install it there, or name it in requirements"
        ) from None
    return pickle.loads(b64decode(definition["pickle"]))


def takes_file(function: Function) -> bool:
    """Whether an object function's annotation asks for a file to read from.

    Annotations are compared by name: with postponed evaluation they are text, and what they name
    need not be imported.
    """
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return False
    if first is None:
        return False
    note = first.annotation
    if isinstance(note, type):
        note = note.__name__
    return str(note).strip("'\"").rsplit(".", 1)[-1] in _FILES


def _check_requirement(requirement: str) -> None:
    """Raise BrokenError unless the requirement is installed here."""
    where = f"{sys.executable} (Python {sys.version.split()[0]})"
    remedy = (
        f"install it there ({sys.executable} -m pip install {requirement!r}) "
        "or start the node with SHARDSTREAM_PYTHON naming a Python that has it"
    )
    parsed: Any = None
    try:
        requirements = importlib.import_module("packaging.requirements")
        try:
            parsed = requirements.Requirement(requirement)
        except requirements.InvalidRequirement as e:
            raise BrokenError(f"requirement {requirement!r} can't be understood: {e}") from None
        name = parsed.name
        if parsed.marker is not None and not parsed.marker.evaluate():
            return
    except ModuleNotFoundError:
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
        if match is None:
            raise BrokenError(
                f"requirement {requirement!r} does not begin with a package's name"
            ) from None
        name = match.group(1)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            raise BrokenError(
                f"requirement {requirement!r}: {name} is not installed in {where}; {remedy}"
            ) from None
        return
    if parsed is not None and not parsed.specifier.contains(version, prereleases=True):
        raise BrokenError(f"requirement {requirement!r}: {where} has {name} {version}; {remedy}")
