"""The drills' report: one HTML file with a picture per drill, traffic, routes and leadership on one time axis."""

from html import escape

from tests.lab.drills import Result

_WIDTH, _LEFT, _ROW = 900, 150, 26
_STYLE = """body{font:15px system-ui,sans-serif;max-width:1100px;margin:2em auto;color:#222}
table{border-collapse:collapse}td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.no{color:#b00020;font-weight:bold}.yes{color:#0a7d32}
h2{margin:1.6em 0 .2em}p{margin:.2em 0}svg text{font:12px system-ui,sans-serif}"""
_COLUMNS = ("drill", "", "packets", "lost", "connections", "lost", "rehashed",
            "detect s", "takeover s", "assigns s", "converge s", "EIPs moved")  # fmt: skip


def _ticks(row: int, times: list[float], scale: float, colour: str) -> str:
    y = 20 + row * _ROW
    return "".join(
        f'<line x1="{_LEFT + at * scale:.1f}" x2="{_LEFT + at * scale:.1f}" y1="{y - 8}" y2="{y + 8}" '
        f'stroke="{colour}" stroke-width="1.5"/>'
        for at in times
    )


def _picture(result: Result) -> str:
    scale = (_WIDTH - _LEFT - 10) / max(result.seconds, 1.0)
    rows = ("not answered", "route changes", "Lease acquired")
    parts = [
        f'<svg width="{_WIDTH}" height="{20 + 4 * _ROW}" role="img" aria-label="timeline of {escape(result.name)}">'
    ]
    for i, name in enumerate(rows):
        y = 20 + i * _ROW
        parts.append(f'<text x="0" y="{y + 4}">{name}</text>')
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y}" y2="{y}" stroke="#ddd"/>')
    x = _LEFT + result.fault_at * scale
    parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{12 + 3 * _ROW}" stroke="#888" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{x + 4:.1f}" y="{14 + 3 * _ROW}">fault</text>')
    parts.append(_ticks(0, result.lost_at, scale, "#b00020"))
    parts.append(_ticks(1, [at for at in result.routes_at if at <= result.seconds], scale, "#1a5fb4"))
    parts.append(_ticks(2, [at for at, _ in result.leaders], scale, "#0a7d32"))
    parts += [
        f'<text x="{_LEFT + at * scale + 4:.1f}" y="{24 + 2 * _ROW}">{escape(node)}</text>'
        for at, node in result.leaders
    ]
    for second in range(int(result.seconds) + 1):
        if second % 2 == 0:
            parts.append(
                f'<text x="{_LEFT + second * scale:.1f}" y="{18 + 3.6 * _ROW:.0f}" fill="#888">{second} s</text>'
            )
    return "".join([*parts, "</svg>"])


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def html(results: list[Result]) -> str:
    """The whole report, self-contained."""
    good = sum(result.ok for result in results)
    rows = []
    for r in results:
        verdict = '<span class="yes">kept</span>' if r.ok else '<span class="no">broken</span>'
        cells = (r.packets_sent, r.packets_lost, r.connections, r.connections_lost, r.connections_rehashed, r.detect_s,
                 r.takeover_s, r.assigns_s, r.converge_s, r.eips_changed)  # fmt: skip
        numbers = "".join(f"<td>{_cell(c)}</td>" for c in cells)
        rows.append(f'<tr><td><a href="#{r.name}">{escape(r.name)}</a></td><td>{verdict}</td>{numbers}</tr>')
    sections = "".join(
        f'<h2 id="{r.name}">{escape(r.name)}</h2><p>Promise: {escape(r.promise)}.</p>'
        f"{f'<p class=no>{escape(r.error)}</p>' if r.error else ''}{_picture(r)}"
        for r in results
    )
    head = "".join(f"<th>{c}</th>" for c in _COLUMNS)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Porter HA drills</title><style>{_STYLE}</style>'
        f"<h1>Failover drills: {good} of {len(results)} promises kept</h1>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table>{sections}</html>"
    )


def markdown(results: list[Result]) -> str:
    """The figures as a table for docs/operations/failover.md."""
    head = ("drill", "packets lost / sent", "connections lost / made", "rehashed",
            "detect", "takeover", "assigns", "converged")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for r in results:
        control = f" (of {r.rehash_expected} that ECMP must rehash)" if r.rehash_expected else ""
        steps = (r.detect_s, r.takeover_s, r.assigns_s, r.converge_s)
        times = [f"{at} s" if at is not None else "-" for at in steps]
        counts = [f"{r.packets_lost} / {r.packets_sent}", f"{r.connections_lost} / {r.connections}"]
        cells = [r.name, *counts, f"{r.connections_rehashed}{control}", *times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
