"""What its developers use: the simulation, drills, the lab, documents written from the code."""

import importlib
import os
import sys
from pathlib import Path

import click

from porter_ha.cli import options
from porter_ha.cli.options import asked


@click.command()
def reasons() -> None:
    """Print docs/reasons.md: every reason that a condition or an event can give."""
    from porter_ha.model.reasons import Reason

    click.echo("# Reasons\n\nWhat conditions, events and metrics can give as a reason. Written by `make reasons`.\n")
    click.echo("| reason | meaning |\n|---|---|")
    for reason in Reason:
        click.echo(f"| `{reason}` | {reason.doc} |")


@click.command()
def metrics() -> None:
    """Print docs/metrics.md: every metric that a pod's process can give."""
    from porter_ha.obs.metrics import TABLE

    click.echo(
        "# Metrics\n\nWhat `/metrics` of managers (port 7472) and agents (7473) gives. Written by `make reasons`."
    )
    click.echo("No label has a Service's name in it: their number does not grow with the cluster's.\n")
    click.echo("| metric | type | labels | meaning |\n|---|---|---|---|")
    for name, (kind, text, labels) in TABLE.items():
        click.echo(f"| `porter_ha_{name}` | {kind} | {', '.join(labels)} | {text} |")


@click.command()
@click.option("--seed", default=0, show_default=True, help="The first seed.")
@click.option("--seeds", default=1, show_default=True, help="How many.")
@click.option("--trace/--no-trace", default=None, help="Print what happened; default: for a single seed.")
def simulate(seed: int, seeds: int, trace: bool | None) -> None:
    """Run the real manager in a simulated cluster where everything goes wrong. The same seed gives the same run."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a run
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    from porter_ha.testing.many import report

    if not report(range(seed, seed + seeds), trace if trace is not None else seeds == 1):
        sys.exit(1)


@click.command()
@click.argument("name")
@click.option("--live", is_flag=True, help="On the cluster of --kubeconfig, not in the lab: planned-handover only.")
@options.KUBECONFIG
@options.NAMESPACE
@click.option("--target", default="", metavar="EIP:PORT", help="With --live: a TCP service to connect to meanwhile.")
@click.option("--timeout", default=30.0, help="With --live: seconds to wait for another leader.", show_default=True)
def drill(name: str, live: bool, kubeconfig: str, namespace: str, target: str, timeout: float) -> None:
    """Run the failover drill NAME, or all of them, in the lab (from a source checkout).

    With --live, run it on a cluster in use. Only planned-handover is safe there; it prints a JSON result.
    """
    if not live:
        _lab(["drill", name])
        return
    import msgspec

    from porter_ha.manager.live_drill import planned_handover

    if name != "planned-handover":
        raise click.BadParameter(
            f"{name!r} breaks things; on a cluster in use there is planned-handover", param_hint="NAME"
        )
    address, _, port = target.rpartition(":")
    if target and not (address and port.isdigit()):
        raise click.BadParameter(f"{target!r} is not EIP:PORT", param_hint="--target")
    where = (address.strip("[]"), int(port)) if target else None
    result = asked(planned_handover(kubeconfig, namespace, where, timeout))
    click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    if not result.ok:
        sys.exit(1)


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """The cluster in a box: up, down, demo (from a source checkout)."""
    _lab(list(arguments))


def _lab(arguments: list[str]) -> None:
    """The lab belongs to tests/ and is not shipped: it is there when this package runs from its source checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "tests" / "lab").is_dir():
        click.echo("the lab is part of the source checkout, which this installation is not", err=True)
        sys.exit(2)
    sys.path.insert(0, str(checkout))
    importlib.import_module("tests.lab.__main__").main(arguments)


COMMANDS = (reasons, metrics, simulate, drill, lab)
