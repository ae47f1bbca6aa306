"""Writes a run's report: into the run's own folder, and on demand into the documentation.

`publish.py RAW` rewrites the part of docs/benchmarks.md between its two marks, and the plot.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import goals
import plot
from report import (
    Run,
    clients_table,
    order_table,
    storage_table,
    stream_table,
)

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT, PLOT = ROOT / "docs" / "benchmarks.md", "benchmarks.svg"
BEGIN, END = "<!-- bench: begin (make bench-publish) -->", "<!-- bench: end -->"


def heading(run: Run) -> str:
    """The command, the machine and the moment: figures are worth nothing without them."""
    about = run.about
    took = f", {run.took_s / 60:.0f} minutes" if run.took_s else ""
    load = f", load {min(run.loads):.1f} to {max(run.loads):.1f}" if run.loads else ""
    return (
        f"`{about['command']}` on {about['date']} at commit {about['commit']}: {about['cpu']}, "
        f"{about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}, Python "
        f"{about['python']}; rounds: {about['rounds']}{took}{load}. All clients and servers are on "
        "this machine; the page cache is warm."
    )


def report(run: Run, image: str) -> str:
    """The report in Markdown."""
    parts = [heading(run), f"![Throughput, CPU and mixing of each loader]({image})"]
    if run.about["quick"]:
        parts.insert(0, "Small data: this shows that the benchmark works, and no more.")
    parts += ["### Goals", goals.table(goals.goals(run))]
    for name, data in run.data.items():
        if run.cases(name):
            parts += [
                f"### {_title(name)} samples, one client",
                f"{data['samples']:,} samples, {data['payload_bytes'] / 1e6:,.0f} MB of payload in "
                f"{data['shards']} shards, batches of {data['batch']:,}.",
                stream_table(run, name),
            ]
    for name in run.data:
        if len(run.clients(name)) > 1:
            parts += [f"### {_title(name)} samples, several clients", clients_table(run, name)]
    parts += ["### Order", order_table(run)]
    if storage := storage_table(run):
        parts += ["### Cluster", storage]
    if run.skipped:
        left_out = [f"- {s['case']}: {s['reason'].splitlines()[-1]}" for s in run.skipped]
        parts += ["### Left out", "\n".join(left_out)]
    return "\n\n".join(parts)


def _title(name: str) -> str:
    return name.replace("kB", " kB")


def write_report(raw: Path, out: Path) -> str:
    """Writes report.md and report.svg, and returns the text."""
    run = Run.load(raw)
    text = report(run, "report.svg")
    (out / "report.md").write_text(text + "\n")
    (out / "report.svg").write_text(plot.draw(run))
    return text


def between(document: str, begin: str, end: str, text: str) -> str:
    """The document with the text between its two marks."""
    head, opening, rest = document.partition(begin)
    _, closing, tail = rest.partition(end)
    if not opening or not closing:
        raise SystemExit(f"the document has no lines {begin!r} and {end!r}")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"


def publish(raw: Path, document: Path) -> None:
    """Puts the report into the document, and the plot beside it."""
    run = Run.load(raw)
    text = between(document.read_text(), BEGIN, END, report(run, PLOT))
    document.write_text(text)
    (document.parent / PLOT).write_text(plot.draw(run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="raw.jsonl of a run")
    raw = parser.parse_args().raw
    if not raw.exists():
        print(f"no {raw}: run `make bench` first", file=sys.stderr)
        return 1
    if Run.load(raw).about.get("quick"):
        print("a quick run is no result: run `make bench`", file=sys.stderr)
        return 1
    publish(raw, DOCUMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
