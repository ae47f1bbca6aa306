"""The source text of a user's function, with what it needs from its module.

A transformation runs beside the data, in another process on another machine, so it travels as
text. What the function refers to in its module goes along where that is possible as text:
imports, constants (numbers, text, and lists, tuples, sets and dicts of them), other functions.
What is not (a closure, a loaded model) is refused here, by name, before anything is sent.
"""

from __future__ import annotations

import ast
import base64
import builtins
import dataclasses
import inspect
import linecache
import math
import re
import symtable
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import _ready

#: Plain values, whose repr is their source text.
_CONSTANTS = (str, bytes, int, bool, type(None))
#: What a module has without defining it: the node's module has its own.
_OF_EVERY_MODULE = frozenset({"__name__", "__file__", "__doc__", "__builtins__"})
_METHODS = (types.MethodType, types.BuiltinFunctionType)
_MAX_DEPTH = 20


def source_of(function: Callable[..., Any] | str | Path, entry: str | None) -> tuple[str, str]:
    """Return (source, entry) for a callable, a path to a file, or source text.

    Raises:
        ValueError: the function can't be sent as text; the message says why, and what to do.
        OSError: the file can't be read.
    """
    if isinstance(function, Path):
        return function.read_text(encoding="utf-8"), entry or "transform"
    if isinstance(function, str):
        if "\n" not in function and function.endswith(".py"):
            return Path(function).read_text(encoding="utf-8"), entry or "transform"
        return function, entry or "transform"
    parts = _Parts()
    if _ready.is_chain(function) and entry is None:
        return parts.chain(function)
    if entry is not None:
        raise ValueError("entry is for source text or a file; of a callable it is its own name")
    function = inspect.unwrap(function)  # a decorator's line is part of the source
    _refuse(function)
    assert isinstance(function, types.FunctionType)
    parts.add(function)
    return parts.text(), function.__name__


def pickle_of(function: Any, python: str | None) -> tuple[str, str]:
    """Return a function as cloudpickle makes it, in base64, and the version of Python it is for.

    Its module and the ready transforms travel by value: the nodes do not have them.

    Raises:
        TypeError: it is not a callable, or can't be pickled.
        ValueError: another version of Python is asked for than this one.
        ImportError: cloudpickle is not installed.
    """
    here = "{}.{}".format(*sys.version_info[:2])
    if not callable(function):
        raise TypeError(f"by='cloudpickle' sends a function, not {function!r}")
    if python is not None and python != here:
        raise ValueError(
            f"python={python!r}: what cloudpickle makes in Python {here} runs in that alone"
        )
    try:
        import cloudpickle
    except ImportError as error:
        raise ImportError(
            "by='cloudpickle' needs cloudpickle: pip install 'shardstream[cloudpickle]'"
        ) from error
    module = inspect.getmodule(function)
    by_value = {module, sys.modules.get(_ready.HOME)}
    by_value = {m for m in by_value if m and m.__name__ not in ("__main__", "builtins")}
    for each in by_value:
        cloudpickle.register_pickle_by_value(each)
    try:
        return base64.b64encode(cloudpickle.dumps(function)).decode(), here
    finally:
        for each in by_value:
            cloudpickle.unregister_pickle_by_value(each)


def _refuse(function: Any) -> None:
    """Raise for callables that have no source of their own."""
    way_out = "define it with `def` at the top level of a file or a notebook cell, or pass a file"
    if not inspect.isfunction(function):
        raise ValueError(f"{function!r} is not a plain function: {way_out}")
    if function.__name__ == "<lambda>":
        raise ValueError(f"a lambda has no name to call it by: {way_out}")
    if function.__code__.co_freevars:
        names = ", ".join(function.__code__.co_freevars)
        raise ValueError(
            f"{function.__qualname__} is a closure over {names}, whose values can't be sent as "
            "text: set them inside the function, make them module-level constants, pass them as "
            "args, or send the function by='cloudpickle'"
        )
    outer = function.__qualname__.rpartition(".")[0]
    if outer and not outer.endswith("<locals>"):
        raise ValueError(f"{function.__qualname__} is a method: {way_out}")


class _Parts:
    """Collects definitions, those that others need first."""

    def __init__(self) -> None:
        self._imports: dict[str, str] = {}
        self._constants: dict[str, str] = {}
        self._definitions: dict[str, str] = {}
        self._uses_ready = False

    def chain(self, chain: Any) -> tuple[str, str]:
        """The text that makes a chain of ready transforms, and the name that it has there."""
        made = self._made(chain)
        name = "chain"
        while name in self._definitions:
            name += "_"
        self._definitions[name] = f"{name} = {made}\n{name}.load()"
        return self.text(), name

    def text(self) -> str:
        blocks = ["from __future__ import annotations"]
        if self._uses_ready:
            blocks.append(_ready.packed())
        if self._imports:
            blocks.append("\n".join(sorted(self._imports.values())))
        if self._constants:
            blocks.append("\n".join(self._constants.values()))
        return "\n\n".join([*blocks, *self._definitions.values()]) + "\n"

    def add(self, thing: types.FunctionType | type) -> None:
        """Add a function or class, and before it whatever it refers to."""
        if thing.__name__ in self._definitions:
            return
        try:
            text = textwrap.dedent(_text_of(thing))
        except (OSError, TypeError) as error:
            raise ValueError(
                f"the source of {thing.__qualname__} can't be found (was it typed at the >>> "
                "prompt?): put it in a file or a notebook cell, or pass the source as text"
            ) from error
        self._definitions[thing.__name__] = ""  # marks it, for functions that call each other
        namespace = _namespace(thing)
        for name in _globals_of(text):
            if name in _OF_EVERY_MODULE:
                continue
            if name in namespace:
                self._need(thing, text, name, namespace[name])
            elif not hasattr(builtins, name) and name != thing.__name__:
                raise ValueError(f"{thing.__qualname__} uses {name!r}, which is not defined")
        del self._definitions[thing.__name__]
        self._definitions[thing.__name__] = text.rstrip()

    def _need(self, user: types.FunctionType | type, text: str, name: str, value: Any) -> None:
        home = getattr(value, "__module__", None)
        if _ready.is_part(value):
            self._uses_ready = True
            self._imports[name] = _ready.import_of(value, name)
        elif _ready.is_step(value) or _ready.is_chain(value):
            self._definitions.setdefault(name, f"{name} = {self._made(value)}")
        elif isinstance(value, types.ModuleType):
            self._imports[name] = _import(value.__name__, name)
            for submodule in _submodules(text, name, value):
                self._imports[submodule] = f"import {submodule}"
        elif isinstance(value, (types.FunctionType, type)) and home == user.__module__:
            if value.__name__ != name:
                raise ValueError(
                    f"{user.__qualname__} uses {value.__name__} under the name {name!r}: call it "
                    "by its own name"
                )
            self.add(value)
        elif _importable(value):
            line = f"from {value.__module__} import {value.__qualname__}"
            suffix = "" if value.__qualname__ == name else f" as {name}"
            self._imports[name] = line + suffix
        elif (constant := _literal(value)) is not None:
            self._constants[name] = f"{name} = {constant}"
        elif isinstance(value, _METHODS) and (module := _module_with(name, value)):
            self._imports[name] = f"from {module} import {name}"
        else:
            raise ValueError(
                f"{user.__qualname__} uses the global {name!r} ({type(value).__name__}), which "
                "can't be sent as text: make it inside the function, or pass a file as function="
            )

    def _made(self, value: Any) -> str:
        """The expression that makes a ready transform, or an argument of one."""
        if _ready.is_step(value) or _ready.is_chain(value):
            kind = type(value)
            if _ready.is_part(kind):
                self._uses_ready = True
                self._imports[_ready.PACKAGE] = f"import {_ready.PACKAGE}"
                name = f"{_ready.PACKAGE}.{kind.__name__}"
            else:
                self.add(kind)
                name = kind.__name__
            given = ((f, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)
            told = [f"{f.name}={self._made(v)}" for f, v in given if v != f.default]
            return f"{name}({', '.join(told)})"
        if (constant := _literal(value)) is not None:
            return constant
        if type(value) in (list, tuple):
            return f"[{', '.join(map(self._made, value))}]"
        if _importable(value) and not inspect.isfunction(value):
            self._imports[value.__module__] = f"import {value.__module__}"
            return f"{value.__module__}.{value.__qualname__}"
        function = inspect.unwrap(value)
        _refuse(function)
        self.add(function)
        return str(function.__name__)


def _text_of(thing: types.FunctionType | type) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        text = _text_in_a_cell(thing.__name__) if isinstance(thing, type) else None
        if text is None:
            raise
        return text


def _text_in_a_cell(name: str) -> str | None:
    """A class's text from the notebook cell that defined it last: inspect looks in files only."""
    for entry in reversed(list(linecache.cache.values())):
        if len(entry) != 4 or entry[1] is not None:  # a cell has no time of modification
            continue
        lines = entry[2]
        try:
            body = ast.parse("".join(lines)).body
        except SyntaxError:
            continue
        for node in reversed(body):
            if isinstance(node, ast.ClassDef) and node.name == name:
                first = min([node.lineno, *(above.lineno for above in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    return None


def _namespace(thing: types.FunctionType | type) -> dict[str, Any]:
    if isinstance(thing, types.FunctionType):
        return thing.__globals__
    module = inspect.getmodule(thing)
    return vars(module) if module else {}


def _globals_of(text: str) -> list[str]:
    """The global names that a definition refers to when it runs, annotations apart."""
    tree = _Unannotate().visit(ast.parse(text))
    table = symtable.symtable(ast.unparse(ast.fix_missing_locations(tree)), "<function>", "exec")
    found: dict[str, None] = {}
    pending = [table]
    while pending:
        scope = pending.pop()
        top = scope is table
        for symbol in scope.get_symbols():
            if symbol.is_referenced() and (
                (top and not symbol.is_assigned()) or (not top and symbol.is_global())
            ):
                found[symbol.get_name()] = None
        pending.extend(scope.get_children())
    return sorted(found)


class _Unannotate(ast.NodeTransformer):
    """Drops annotations: they are not evaluated where the function runs."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return ast.Pass()
        return ast.Assign(targets=[node.target], value=node.value)


def _import(module: str, name: str) -> str:
    if module == name:
        return f"import {module}"
    return f"import {module} as {name}"


def _submodules(text: str, name: str, module: types.ModuleType) -> set[str]:
    """Submodules that text reaches through module: `PIL.Image` needs an import of its own."""
    found = set()
    for match in re.finditer(rf"(?<![\w.]){re.escape(name)}((?:\.\w+)+)", text):
        path = module.__name__
        for part in match[1].split(".")[1:]:
            path = f"{path}.{part}"
            if path in sys.modules and module.__name__ == name:
                found.add(path)
    return found


def _importable(value: Any) -> bool:
    """Whether `from module import name` gives this very value elsewhere too."""
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or not qualname or "." in qualname:
        return False
    return getattr(sys.modules.get(module), qualname, None) is value


def _module_with(name: str, value: Any) -> str | None:
    """The loaded module that has a method under a name of its own: `from random import randint`."""
    owner = getattr(type(getattr(value, "__self__", None)), "__module__", None)
    for module in (owner, getattr(value, "__module__", None)):
        if isinstance(module, str) and module not in ("__main__", "builtins"):
            parent = module.rpartition(".")[0]  # numpy.random rather than numpy.random.mtrand
            for candidate in (parent, module):
                if getattr(sys.modules.get(candidate), name, None) == value:
                    return candidate
    return None


def _literal(value: Any, depth: int = 0) -> str | None:
    """The source text of a plain value or of a container of such, None for anything else."""
    kind = type(value)
    if kind in _CONSTANTS:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if depth > _MAX_DEPTH:  # it may contain itself
        return None
    if kind is dict:
        pairs = [(_literal(k, depth + 1), _literal(v, depth + 1)) for k, v in value.items()]
        if any(k is None or v is None for k, v in pairs):
            return None
        return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
    if kind in (list, tuple, set, frozenset):
        items = [_literal(item, depth + 1) for item in value]
        if None in items:
            return None
        texts = [str(item) for item in items]
        if kind is tuple:
            return "(" + "".join(f"{text}, " for text in texts) + ")"
        if kind is list:
            return f"[{', '.join(texts)}]"
        return f"{kind.__name__}([{', '.join(sorted(texts))}])"
    return None
