"""The plot of a run: one SVG, drawn by hand so that a benchmark needs no plotting library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from cases import CASES, LIMIT, MEMCPY, OURS, TCP
from report import Run, cpu_gb, first_rate, rate

WIDTH, MARGIN, LABELS = 1080, 28, 250  # in pixels; LABELS is the column of the cases' names
BAR, ROW, GAP = 13, 22, 26
INK, FAINT, GRID, PAPER = "#1f2933", "#6b7785", "#e4e8ec", "#ffffff"
COLORS = {LIMIT: "#b4bcc6", OURS: "#0f766e", "peer": "#d08a2e"}
SHADES = {LIMIT: ("#d5dae0", "#b4bcc6", "#8f99a5"), OURS: ("#7cc5bd", "#2f9c92", "#0f766e"),
          "peer": ("#efcf9f", "#dfab5c", "#d08a2e")}  # fmt: skip
FONT = "font-family=\"ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\""


class Canvas:
    """Shapes, and how far down they reach."""

    def __init__(self) -> None:
        self.y = float(MARGIN)
        self._shapes: list[str] = []

    def text(self, x: float, y: float, text: str, *, size: float = 12, color: str = INK,
             anchor: str = "start", bold: bool = False) -> None:  # fmt: skip
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" '
            f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def bar(self, x: float, y: float, width: float, height: float, color: str, tip: str) -> None:
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" '
            f'rx="2" fill="{color}"><title>{escape(tip)}</title></rect>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, *,
             width: float = 1, dashed: bool = False) -> None:  # fmt: skip
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._shapes.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}"{dash}/>'
        )

    def svg(self) -> str:
        height = self.y + MARGIN
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" {FONT} role="img">'
        )
        paper = f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>'
        return "\n".join([head, paper, *self._shapes, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Measure:
    """A column of bars. Values are (middle, lowest, highest), or None where there is none."""

    title: str
    share: float  # of the width beside the labels
    values: Callable[[Run, str, str], tuple[float, float, float] | None]
    form: str
    mark: Callable[[Run, str, str], float | None] | None = None  # a tick on the bar
    line: Callable[[Run, str], float | None] | None = None  # across all bars


def _spread(values: list[float], mid: float | None) -> tuple[float, float, float] | None:
    return None if mid is None else (mid, min(values), max(values))


def _rates(run: Run, data: str, case: str) -> tuple[float, float, float] | None:
    return _spread(run.all(data, case, rate), run.mid(data, case, rate))


def _cpu(run: Run, data: str, case: str) -> tuple[float, float, float] | None:
    return _spread(run.all(data, case, cpu_gb), run.mid(data, case, cpu_gb))


def _pairs(run: Run, data: str, case: str) -> tuple[float, float, float] | None:
    quality = run.warm(data, case).get("quality")
    return (quality["pairs"],) * 3 if quality else None


def _first(run: Run, data: str, case: str) -> float | None:
    return None if CASES[case].kind == LIMIT else run.mid(data, case, first_rate)


def _ideal(run: Run, data: str) -> float | None:
    for case in run.cases(data):
        if quality := run.warm(data, case).get("quality"):
            return float(quality["pairs_ideal"])
    return None


MEASURES = (
    Measure("MB/s", 0.5, _rates, ",.0f", _first, lambda run, data: run.mid(data, TCP, rate)),
    Measure("client CPU seconds per GB", 0.25, _cpu, ",.2f"),
    Measure("pairs of a batch from one shard", 0.25, _pairs, ".3f", line=_ideal),
)


def draw(run: Run) -> str:
    """The plot as SVG text."""
    canvas = Canvas()
    about = run.about
    canvas.text(MARGIN, canvas.y + 10, "Streaming shuffled samples into one training process",
                size=19, bold=True)  # fmt: skip
    canvas.text(
        MARGIN, canvas.y + 31,
        f"{about['command']}, {about['date']}, commit {about['commit']}: {about['cpu']}, "
        f"{about['cores']} cores; interleaved rounds: {about['rounds']}, medians; page cache warm",
        color=FAINT,
    )  # fmt: skip
    canvas.y += 46
    _legend(canvas)
    for data in run.data:
        if run.cases(data):
            _panel(canvas, run, data)
    several = [data for data in run.data if len(run.clients(data)) > 1]
    if several:
        _clients(canvas, run, several)
    return canvas.svg()


def _legend(canvas: Canvas) -> None:
    x = MARGIN
    names = {LIMIT: "limit of this machine", OURS: "shardstream", "peer": "other loaders"}
    for kind, name in names.items():
        canvas.bar(x, canvas.y, 12, 12, COLORS[kind], name)
        canvas.text(x + 18, canvas.y + 10.5, name)
        x += 40 + 7 * len(name)
    canvas.y += 32
    canvas.text(
        MARGIN, canvas.y,
        "thin line: slowest to fastest round; white tick: first epoch, with opening; dashed line: "
        "plain TCP from memory, or what a random order has",
        color=FAINT,
    )  # fmt: skip
    canvas.y += GAP


def _panel(canvas: Canvas, run: Run, data: str) -> None:
    cases = [case for case in run.cases(data) if case != MEMCPY]
    about = run.data[data]
    each = about["payload_bytes"] / about["samples"]
    title = f"{data.replace('kB', ' kB')} samples"
    remark = f"{about['samples']:,} samples, {about['shards']} shards, batch {about['batch']:,}"
    if 990 <= each <= 1010:
        remark += "; MB/s are also thousands of samples/s"
    canvas.text(MARGIN, canvas.y + 6, title, size=15, bold=True)
    canvas.text(MARGIN + 150, canvas.y + 6, remark, color=FAINT)
    canvas.y += 34
    top, room = canvas.y, WIDTH - 2 * MARGIN - LABELS
    for i, case in enumerate(cases):
        canvas.text(MARGIN + LABELS - 12, top + i * ROW + 11, CASES[case].title, anchor="end",
                    bold=CASES[case].kind == OURS)  # fmt: skip
    x = float(MARGIN + LABELS)
    for measure in MEASURES:
        width = room * measure.share - 18
        _column(canvas, run, data, cases, measure, x, top, width)
        x += room * measure.share
    canvas.y = top + len(cases) * ROW + GAP


def _column(canvas: Canvas, run: Run, data: str, cases: list[str], measure: Measure,
            x: float, top: float, width: float) -> None:  # fmt: skip
    values = {case: v for case in cases if (v := measure.values(run, data, case))}
    across = measure.line(run, data) if measure.line else None
    most = max([high for _, _, high in values.values()] + [across or 0], default=0)
    if not most:
        return
    scale = (width - 46) / most  # room for the number behind the longest bar
    bottom = top + len(cases) * ROW - (ROW - BAR)
    canvas.text(x, top - 9, measure.title, size=11, color=FAINT)
    canvas.line(x, top - 3, x, bottom + 3, GRID)
    if across:
        canvas.line(x + across * scale, top - 3, x + across * scale, bottom + 3, FAINT, dashed=True)
    for i, case in enumerate(cases):
        if case not in values:
            continue
        y, (mid, low, high) = top + i * ROW, values[case]
        kind = CASES[case].kind
        label = format(mid, measure.form)
        canvas.bar(x, y, mid * scale, BAR, COLORS[kind], f"{CASES[case].title}: {label}")
        if high > low:
            canvas.line(x + low * scale, y + BAR / 2, x + high * scale, y + BAR / 2, INK)
        mark = measure.mark(run, data, case) if measure.mark else None
        if mark and mid * scale > 3 * BAR:  # a shorter bar would be all tick
            at = x + min(mark, most) * scale
            canvas.line(at, y + 1, at, y + BAR - 1, PAPER, width=2.5)
        canvas.text(x + max(mid, high) * scale + 5, y + 11, label, size=11.5,
                    bold=kind == OURS)  # fmt: skip


def _clients(canvas: Canvas, run: Run, several: list[str]) -> None:
    """Rates of 1, 2 and 4 clients, a group of bars a case, a column a data set."""
    canvas.text(MARGIN, canvas.y + 6, "Several clients at once", size=15, bold=True)
    counts = sorted({n for data in several for n in run.clients(data)})
    words = ", ".join(map(str, counts[:-1])) + f" and {counts[-1]}"
    canvas.text(MARGIN + 200, canvas.y + 6, f"MB/s of all together, {words} clients from light to "
                "dark; each reads its part of one epoch", color=FAINT)  # fmt: skip
    canvas.y += 34
    top, height = canvas.y, 9
    group = len(counts) * height + 8
    cases = [case for case in CASES
             if case != MEMCPY and any(case in run.cases(data) for data in several)]  # fmt: skip
    for i, case in enumerate(cases):
        canvas.text(MARGIN + LABELS - 12, top + i * group + group / 2, CASES[case].title,
                    anchor="end", bold=CASES[case].kind == OURS)  # fmt: skip
    room = (WIDTH - 2 * MARGIN - LABELS) / len(several)
    for column, data in enumerate(several):
        x = MARGIN + LABELS + column * room
        values = {(case, n): v for case in cases for n in counts
                  if (v := run.mid(data, case, rate, n)) is not None}  # fmt: skip
        scale = (room - 62) / max(values.values())
        canvas.text(x, top - 9, f"{data.replace('kB', ' kB')} samples", size=11, color=FAINT)
        canvas.line(x, top - 3, x, top + len(cases) * group - 6, GRID)
        for i, case in enumerate(cases):
            for j, n in enumerate(counts):
                if (case, n) not in values:
                    continue
                y, value = top + i * group + j * height, values[case, n]
                shade = SHADES[CASES[case].kind][j % 3]
                tip = f"{CASES[case].title}, {n} clients: {value:,.0f} MB/s"
                canvas.bar(x, y, value * scale, height - 1, shade, tip)
                canvas.text(x + value * scale + 4, y + height - 1.5, f"{value:,.0f}", size=8.5,
                            color=FAINT)  # fmt: skip
    canvas.y = top + len(cases) * group
