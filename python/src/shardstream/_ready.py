"""How the ready transforms travel: as their own text, ahead of the function that uses them.

Workers then need no shardstream, whatever environment they run in, and a definition keeps the
transforms that it was deployed with: upgrading the cluster changes no pixel of it.
"""

from __future__ import annotations

import sys
import types
from importlib import resources
from typing import Any

HOME = "shardstream.transforms"
#: The package's name in workers: another than here, for shardstream itself may be there too.
PACKAGE = "shardstream_transforms"

_LOADER = """\
# The ready transforms of shardstream {version}, from where this was deployed.
import importlib.abc
import importlib.util
import sys


class _Packed(importlib.abc.InspectLoader, importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in _PACKED:
            return importlib.util.spec_from_loader(name, self)

    def is_package(self, name):
        return "." not in name

    def get_source(self, name):
        return _PACKED[name]

    def get_code(self, name):
        return compile(_PACKED[name], name + ".py", "exec", dont_inherit=True)


_PACKED = {{
{modules}
}}
sys.meta_path.insert(0, _Packed())"""


def is_chain(value: Any) -> bool:
    """Whether it is a Compose."""
    home = sys.modules.get(HOME)
    return home is not None and isinstance(value, home.Compose)


def is_step(value: Any) -> bool:
    """Whether it is a transform, ready or of the user's own, or what stands in one."""
    home = sys.modules.get(HOME)
    return home is not None and isinstance(value, (home.Transform, home.TokenizerFile))


def is_part(value: Any) -> bool:
    """Whether it is the package of transforms, or a class of it."""
    if isinstance(value, types.ModuleType):
        return value.__name__ == HOME
    home = getattr(value, "__module__", None)
    return isinstance(value, type) and (home == HOME or str(home).startswith(HOME + "."))


def import_of(value: Any, name: str) -> str:
    """The line that gives a worker what `name` is here."""
    if isinstance(value, types.ModuleType):
        return f"import {PACKAGE} as {name}"
    return f"from {PACKAGE} import {value.__name__} as {name}"


def packed() -> str:
    """The text that makes the package importable as PACKAGE."""
    from ._version import __version__

    modules = []
    for file in sorted(resources.files(HOME).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            stem = file.name[:-3]
            name = PACKAGE if stem == "__init__" else f"{PACKAGE}.{stem}"
            text = file.read_text(encoding="utf-8")
            modules.append(f"{name!r}: r'''{text}''',")
    return _LOADER.format(version=__version__, modules="\n".join(modules))
