"""Make a pip-installed CUDA build of torch importable where there is no CUDA, in 1.4 GB, not 5.5.

PyPI's torch wheel for Linux is linked against a dozen CUDA libraries, which a plain ``pip install
torch`` fetches as another 4 GB of nvidia-* packages. Tests and the demo compute on the CPU and call
none of them. So we install the wheel alone (``pip install --no-deps``) and put small stand-ins
beside it: every function in them answers 100, CUDA's code for "no device". All CPU code stays the
official build, and ``torch.cuda.is_available()`` is False.

    python mkstubs.py SITE_PACKAGES/torch/lib

Needs a C compiler and readelf (binutils). The symbols are read from the libraries themselves, so
the script belongs to no particular version of torch; the Makefile still pins the one that is
tested.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)[A-Za-z_]*\.so\.\d+")
NO_DEVICE = 100  # cudaErrorNoDevice, CUDA_ERROR_NO_DEVICE


def readelf(*args: str) -> str:
    """Return readelf's output, in the C locale."""
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        ["readelf", "-W", *args], check=True, capture_output=True, text=True, env=env
    ).stdout


def version_owners(library: Path) -> dict[str, tuple[str, str]]:
    """Map a symbol-version index of ``library`` to (file that must define it, version name)."""
    owners: dict[str, tuple[str, str]] = {}
    file = ""
    for line in readelf("-V", str(library)).splitlines():
        if found := re.search(r"File: (\S+)", line):
            file = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags: \S+\s+Version: (\d+)", line):
            owners[found[2]] = (file, found[1])
    return owners


def main(folder: Path) -> None:
    """Compile one stand-in for each CUDA library that the libraries in ``folder`` need."""
    libraries = sorted(p for p in folder.glob("*.so*") if not CUDA_LIBRARY.fullmatch(p.name))
    needed: set[str] = set()
    defined: set[str] = set()
    unversioned: set[str] = set()
    wanted: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for library in libraries:
        for soname in re.findall(r"NEEDED.*\[(.+)\]", readelf("-d", str(library))):
            if CUDA_LIBRARY.fullmatch(soname):
                needed.add(soname)
        owners = version_owners(library)
        for line in readelf("--dyn-syms", str(library)).splitlines():
            columns = line.split()
            if len(columns) < 8 or columns[4] not in ("GLOBAL", "WEAK"):
                continue
            name, _, _ = columns[7].partition("@")
            if columns[6] != "UND":
                defined.add(name)
            elif "@" in columns[7]:
                file, version = owners[columns[8].strip("()")]
                wanted[file][version].add(name)
            elif columns[4] == "GLOBAL" and not re.match(r"_?Py", name):
                unversioned.add(name)
    if not needed:
        sys.exit(f"mkstubs: no library in {folder} needs CUDA; nothing to do")
    # The loader finds an unversioned symbol in any library, so one stand-in may hold them all.
    wanted[min(needed)][""] |= unversioned - defined
    for soname in sorted(needed):
        compile_stub(folder / soname, wanted[soname])
    print(f"mkstubs: {len(needed)} stand-ins for CUDA libraries in {folder}")


def compile_stub(path: Path, versions: dict[str, set[str]]) -> None:
    """Compile a library at ``path`` whose functions, grouped by version, return NO_DEVICE."""
    names = sorted(set().union(*versions.values()))
    source = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names)
    script = "".join(
        f"{version} {{ global: {' '.join(f'{n};' for n in sorted(symbols))} }};\n"
        for version, symbols in versions.items()
        if version
    )
    with tempfile.TemporaryDirectory() as scratch:
        c, vers = Path(scratch, "stub.c"), Path(scratch, "stub.map")
        c.write_text(source or "typedef int nothing;\n")
        vers.write_text(script)
        command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O0", "-w", "-fno-builtin"]
        command += [f"-Wl,-soname,{path.name}", "-o", str(path), str(c)]
        if script:
            command.append(f"-Wl,--version-script={vers}")
        subprocess.run(command, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: mkstubs.py SITE_PACKAGES/torch/lib")
    main(Path(sys.argv[1]))
