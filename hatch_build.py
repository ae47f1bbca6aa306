"""Build hook: compiles the Go side of the package and puts it into the wheel.

Two artefacts come of it, both from this source tree and the modules that go.mod names:

* ``shardstream/_core/_pybind.<abi>.so``: the loader, bound to Python by gopy. gopy only
  generates the binding here; the compiling is done by the steps below, because gopy's own
  build links libpython, compiles everything twice and sets compiler flags of its own.
* ``shardstream``: the command, a static binary that lands in the environment's ``bin``.

A Go toolchain, a C compiler and the headers of the running Python are needed, and named
where one is missing.

``SHARDSTREAM_BUILD_BACKENDS`` says which clients of other storage the command has: ``all``,
which is the default, ``none``, or some of ``s3,gcs,azure,hdfs``. A wheel for trainers and
notebooks needs none: the cluster's nodes read backends, and the loader has no part of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "github.com/shardstream/shardstream"
NAME = "pybind"  # of the Go package; the extension is then called _pybind
BACKENDS = ("s3", "gcs", "azure", "hdfs")  # each with a build tag no_NAME


class BuildError(RuntimeError):
    """The native part can't be built; the message says what to install or change."""


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Adds the extension and the command to a wheel; an sdist carries sources only."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling what to pack beside the Python files."""
        if self.target_name != "wheel":
            return
        build = Build(Path(self.root), self.metadata.version)
        build.check()
        build.tags()  # before minutes of compiling
        with build.alone():
            extension = build.extension()
            command = build.command()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        # The exact files: a tree that has built for several Pythons holds several extensions.
        build_data["artifacts"] += [
            f"/{extension.relative_to(self.root).as_posix()}",
            f"/{extension.with_name('__init__.py').relative_to(self.root).as_posix()}",
        ]
        build_data["shared_scripts"][str(command)] = "shardstream"


class Build:
    """The steps of one build, in the source tree at root."""

    def __init__(self, root: Path, version: str) -> None:
        """Only look around; the steps do the work."""
        self.root = root
        self.version = version
        self.out = root / "build"
        self.include = sysconfig.get_path("include")
        # gopy reads distutils' configuration; setuptools still carries it for Python 3.12 on.
        self.env = {**os.environ, "SETUPTOOLS_USE_DISTUTILS": "local"}

    def check(self) -> None:
        """Fail early, and in words, where a tool is missing or too old."""
        need = re.search(r"^go (\d+)\.(\d+)", (self.root / "go.mod").read_text(), re.MULTILINE)
        if need is None:
            raise BuildError("go.mod has no 'go' line: is this the whole source tree?")
        wanted = f"Go {need[1]}.{need[2]} or later (https://go.dev/dl/)"
        if shutil.which("go") is None:
            raise BuildError(f"building shardstream needs {wanted}, and there is no 'go' on PATH")
        found = self.run("go", "version").strip()
        have = re.search(r"go(\d+)\.(\d+)", found)
        if have and tuple(map(int, have.groups())) < tuple(map(int, need.groups())):
            raise BuildError(f"building shardstream needs {wanted}, and 'go' is: {found}")
        compiler = shlex.split(self.run("go", "env", "CC").strip())
        if not compiler or shutil.which(compiler[0]) is None:
            raise BuildError(
                f"building shardstream needs a C compiler, and {' '.join(compiler) or 'CC'!r} is "
                "not on PATH: install gcc, or set CC"
            )
        if not (Path(self.include) / "Python.h").exists():
            raise BuildError(
                f"building shardstream needs Python's headers, and {self.include}/Python.h is not "
                "there: install python3-dev (python3-devel)"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for another build in the same tree to end."""
        self.out.mkdir(exist_ok=True)
        with (self.out / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def extension(self) -> Path:
        """Generate and compile the binding; returns the extension in the source package."""
        tools = self.out / "tools"
        self.run(
            "go", "build", "-o", f"{tools}{os.sep}",
            "github.com/go-python/gopy", "golang.org/x/tools/cmd/goimports",
        )  # fmt: skip
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        # Inside the module, for its go.mod; the underscore keeps it out of ./... patterns.
        work = self.out / f"_{NAME}{suffix.removesuffix('.so')}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.run(
            str(tools / "gopy"), "gen", "-no-make", "-dynamic-link=true",
            f"-name={NAME}", f"-output={work}", f"-vm={sys.executable}", f"{MODULE}/pybind",
        )  # fmt: skip
        source = work / f"{NAME}.go"
        # The build machine's library directory has no place in a wheel.
        replace(source, r"^#cgo LDFLAGS:.*$", "", count=1)
        self.run(str(tools / "goimports"), "-w", source.name, cwd=work)
        # The header that the generated C code includes, without a link for its sake.
        self.run(
            "go", "tool", "cgo", "-exportheader", f"{NAME}_go.h", "-objdir", "cgo",
            "--", f"-I{self.include}", source.name, cwd=work,
        )  # fmt: skip
        shutil.rmtree(work / "cgo")
        self.run(sys.executable, "build.py", cwd=work)
        built = work / f"_{NAME}{suffix}"
        self.run(
            "go", "build", "-trimpath", "-buildvcs=false", "-buildmode=c-shared",
            f"-ldflags=-s -w -X {MODULE}/pybind.version={self.version}",
            "-o", built.name, ".", cwd=work,
            CGO_ENABLED="1", CGO_LDFLAGS="-shared",
            CGO_CFLAGS=f"-I{self.include} -O2 -fPIC -w",
        )  # fmt: skip
        # Into the package itself, so that an editable install finds it as well. Only the
        # extension: gopy's Python wrappers serve types that the binding does not have.
        core = self.root / "python" / "src" / "shardstream" / "_core"
        core.mkdir(exist_ok=True)
        (core / "__init__.py").write_text('"""Built by hatch_build.py: the native module."""\n')
        target = core / built.name
        target.unlink(missing_ok=True)  # a process may have the old one mapped
        shutil.copy2(built, target)
        return target

    def command(self) -> Path:
        """Compile the static command-line binary."""
        target = self.out / "bin" / "shardstream"
        self.run(
            "go", "build", "-trimpath", "-buildvcs=false",
            f"-ldflags=-s -w -X main.version={self.version}", f"-tags={self.tags()}",
            "-o", str(target), "./cmd/shardstream", CGO_ENABLED="0",
        )  # fmt: skip
        return target

    def tags(self) -> str:
        """The build tags that leave out the backends which are not wanted."""
        text = self.env.get("SHARDSTREAM_BUILD_BACKENDS", "").strip().lower() or "all"
        text = {"all": ",".join(BACKENDS), "none": ""}.get(text, text)
        wanted = {name.strip() for name in text.split(",")} - {""}
        if unknown := wanted - set(BACKENDS):
            raise BuildError(
                f"SHARDSTREAM_BUILD_BACKENDS has {', '.join(sorted(unknown))}: it takes all, none, "
                f"or some of {','.join(BACKENDS)}"
            )
        return ",".join(f"no_{name}" for name in BACKENDS if name not in wanted)

    def run(self, *args: str, cwd: Path | None = None, **env: str) -> str:
        """Run a step and return its output; a failing one raises with all that it said."""
        done = subprocess.run(
            args,
            cwd=cwd or self.root,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(args)} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout


def replace(path: Path, pattern: str, text: str, *, count: int) -> None:
    """Patch generated code; a pattern that does not match exactly count times is an error."""
    content, found = re.subn(pattern, text, path.read_text(), flags=re.MULTILINE)
    if found != count:
        raise BuildError(
            f"{path.name}: {pattern!r} matched {found} times, not {count}: gopy's output has "
            "changed, so look at it and adapt hatch_build.py"
        )
    path.write_text(content)
