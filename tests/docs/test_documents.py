"""The documentation does what it says.

A block that opens with ```bash run or ```python run is run, in the order of its document, by a
kernel that sits in an empty directory with some shards in `shards/`. Blocks of one document share
variables. A document that brings up no cluster itself finds one, with those shards in
`ss://digits/`. Notebooks are run in the same way. A block that opens with ```python run if jax is
run where jax is installed. A guide of a kind of backend finds a real server of that kind, with the
shards in `datasets`, `digits/`; how it is reached is in the environment.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from workplaces import Workplace, server_of, workplace_in

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"^```(bash|python) run(?: if (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
SERVERS = {  # the guides that need one, and its scheme
    "backends-s3": "s3",
    "backends-gcs": "gs",
    "backends-azure": "az",
    "backends-hdfs": "hdfs",
    "backends-http": "http",
}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    with workplace_in(tmp_path) as place:
        yield place


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks_of(path: Path) -> list[tuple[str, str]]:
    return [
        (language, code)
        for language, module, code in BLOCK.findall(path.read_text())
        if not module or importlib.util.find_spec(module) is not None
    ]


def execute(notebook: nbformat.NotebookNode, workplace: Workplace) -> None:
    client = NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(workplace.path)}}
    )
    failure = ""
    try:
        client.execute(env=workplace.env)
    except CellExecutionError as error:
        failure = COLOR.sub("", str(error))
    if failure:
        pytest.fail(failure, pytrace=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks_of(path)], ids=name_of)
def test_blocks_run(path: Path, workplace: Workplace) -> None:
    blocks = blocks_of(path)
    if any("import torch" in code or "from torch" in code for _, code in blocks):
        pytest.importorskip("torch", reason="torch is not installed (TORCH=none)")
    cells = [
        nbformat.v4.new_code_cell(
            code if language == "python" else f"%%bash\nset -euo pipefail\n{code}"
        )
        for language, code in blocks
    ]
    with contextlib.ExitStack() as around:
        if scheme := SERVERS.get(path.stem):
            around.enter_context(server_of(scheme, workplace))
        if not any("shardstream up" in code for _, code in blocks):
            workplace.start()
        execute(nbformat.v4.new_notebook(cells=cells), workplace)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_run(path: Path, workplace: Workplace) -> None:
    execute(nbformat.read(path, as_version=4), workplace)


def test_there_is_something_to_run() -> None:
    assert blocks_of(ROOT / "README.md")
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_are_kept_without_output(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_make_help_lists_the_targets() -> None:
    listed = subprocess.run(
        ["make", "-s", "-C", str(ROOT), "help"], check=True, capture_output=True, text=True
    ).stdout
    for target in ("demo", "test", "lint", "bench", "wheel"):
        assert f"make {target} " in listed
