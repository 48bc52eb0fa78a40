"""The bench's results as pictures, PNG and SVG: how cost and waiting grow."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

if TYPE_CHECKING:
    from loadtest.bench import Results

matplotlib.use("Agg")
from matplotlib import pyplot

from loadtest.measure import mean_added_ms


def draw(results: "Results", folder: Path) -> None:
    """bench-scale: cost of a Service by their number; bench-plan: of a change; bench-nodes: waiting by nodes."""
    if results.scale:
        sizes = [a.count for a in results.scale]
        series = {
            "controller, all processes": [a.cpu_ms_per_service for a in results.scale],
            "of that added by a Service": [a.added_ms(results.scale_idle_percent) for a in results.scale],
            "kube-apiserver": [a.apiserver_ms_per_service for a in results.scale],
        }
        if results.again:
            anew = [mean_added_ms(results.again[count], results.scale_idle_percent) for count in sizes]
            series["added by one that is assigned anew"] = anew
        _picture(folder / "bench-scale", "Services", "processor ms per Service", sizes, series)
    if results.plan:
        plan = sorted((p for p in results.plan if p.nodes == 100), key=lambda p: p.services)
        changes = {"one Service's change": [p.service_us for p in plan]}
        _picture(folder / "bench-plan", "Services", "microseconds per change", [p.services for p in plan], changes)
    if results.nodes:
        singles = list(results.nodes.values())
        waits = {
            "EIP in status": [s.assign_p50_ms for s in singles],
            "all next hops in the router's kernel": [s.fib_p50_ms for s in singles],
        }
        _picture(folder / "bench-nodes", "nodes", "p50, ms", list(results.nodes), waits)


def _picture(path: Path, across: str, up: str, x: list[int], series: dict[str, list[float]]) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, values in series.items():
        axes.plot(x, values, marker="o", label=label)
    axes.set_xscale("log")
    axes.set_xticks(x, [str(value) for value in x])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend()
    for kind in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=120)
    pyplot.close(figure)
