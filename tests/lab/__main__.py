"""`python -m tests.lab up|down|demo` (also `porter-ha lab ...`)."""

import os
import sys

import click
from rich.console import Console

from tests.lab import cluster, controlplane
from tests.lab.shell import LOGS, PARTS, PREFIX, LabError

console = Console(highlight=False, width=min(120, Console().width) if sys.stdout.isatty() else 110)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """The cluster in a box."""
    if os.geteuid():
        raise click.ClickException("the lab makes network namespaces: run it as root")


@lab.command()
def up() -> None:
    """Bring the lab up and leave it."""
    cluster.up(lambda text: console.print(f"  {text}"))
    kubectl = PARTS / "kubectl"
    console.print(
        f"""
[bold]The lab is up.[/bold]
  export KUBECONFIG={controlplane.KUBECONFIG}
  alias kubectl={kubectl}
  kubectl get eips,bgpconfs,bgppeers; kubectl get nodes
  kubectl create service loadbalancer web --tcp=80:8080 && kubectl annotate service web lb.kubesphere.io/v1alpha1=porter
  ip -n {PREFIX}router1 route show proto bgp       # FRR's kernel;  router2 is BIRD: proto bird
  ip netns exec {PREFIX}client curl http://EIP/    # as the client
  logs: {LOGS}
  make lab-down                                     # remove it"""
    )


@lab.command()
def down() -> None:
    """Remove the lab."""
    cluster.down()


@lab.command()
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards.")
def demo(keep: bool) -> None:
    """Show the product at work."""
    from tests.lab.demo import Demo

    try:
        good = Demo(console).run()
    except LabError as error:
        console.print(f"[red]failed:[/red] {error}")
        good = False
    finally:
        if not keep:
            cluster.down()
    sys.exit(0 if good else 1)


@lab.command()
@click.argument("name")
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards.")
def drill(name: str, keep: bool) -> None:
    """Run a failover drill, or all; writes build/drills.json, build/drills.html and build/drills.md."""
    import msgspec

    from tests.lab import drills, report

    try:
        wanted = drills.chosen(name)
    except LabError as error:
        raise click.ClickException(str(error)) from None
    results = []
    try:
        with console.status("bringing the lab up"):
            drills.prepare()
        for one in wanted:
            with console.status(f"{one.name} ({one.seconds:.0f} s of traffic)"):
                result = drills.execute(one)
            results.append(result)
            colour, verdict = ("green", "kept") if result.ok else ("red", "BROKEN")
            console.print(
                f"[{colour}]{verdict:6}[/{colour}] {result.name:26} lost: {result.packets_lost} of "
                f"{result.packets_sent} packets, {result.connections_lost} of {result.connections} connections "
                f"({result.connections_rehashed} of {result.rehash_expected} rehashed); "
                f"takeover {result.takeover_s} s, assigns {result.assigns_s} s, converged {result.converge_s} s "
                f"{result.error}"
            )
    except LabError as error:
        raise click.ClickException(str(error)) from None
    finally:
        if not keep:
            cluster.down()
        build = LOGS.parents[1]
        (build / "drills.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
        (build / "drills.html").write_text(report.html(results), encoding="utf-8")
        (build / "drills.md").write_text(report.markdown(results), encoding="utf-8")
    console.print(f"{sum(r.ok for r in results)} of {len(results)} promises kept; build/drills.html shows each")
    sys.exit(0 if all(r.ok for r in results) else 1)


def main(arguments: list[str] | None = None) -> None:
    lab.main(arguments, standalone_mode=True)


if __name__ == "__main__":
    main()
