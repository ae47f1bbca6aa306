"""docs/answers.md and docs/reliability.md name tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "answers.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| what hurts", "| ---"))
]


def has_test(path: Path, name: str) -> bool:
    """Whether a file of Python or Go has a test, or a benchmark, of that name."""
    if not path.is_file():
        return False
    if path.suffix == ".py":
        names = {
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        return name in names if name else any(n.startswith("test_") for n in names)
    return re.search(rf"^func {name}\(\w+ \*testing\.[TBF]\)", path.read_text(), re.M) is not None


def test_there_are_answers() -> None:
    assert len(ROWS) > 30
    assert all(len(row) == 3 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_the_proof_exists(row: list[str]) -> None:
    proofs = re.findall(r"`([^`]+)`", row[2])
    assert proofs, "an answer needs a test"
    missing = []
    for proof in proofs:
        file, _, name = proof.partition("::")
        if not has_test(ROOT / file, name):
            missing.append(proof)
    assert missing == []


def test_what_proves_the_promises_exists() -> None:
    proofs = re.findall(r"`([^`]+::\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(proofs) > 15
    assert [p for p in proofs if not has_test(ROOT / p.split("::")[0], p.split("::")[1])] == []
