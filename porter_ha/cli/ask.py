"""What an operator asks of a running installation, or tells it."""

import click

from porter_ha.cli import options
from porter_ha.cli.options import asked, told


@click.command()
@click.argument("service", metavar="NAMESPACE/NAME")
@options.KUBECONFIG
@options.NAMESPACE
@options.CLASSLESS
@options.OUTPUT
def why(service: str, kubeconfig: str, namespace: str, classless: bool, output: str) -> None:
    """Explain a Service: its EIP or why it has none, its next hops and why other nodes are none, what routers hear."""
    from porter_ha.core.why import explain
    from porter_ha.manager.explain import cluster, why_text

    if service.count("/") != 1:
        raise click.BadParameter(f"{service!r} is not NAMESPACE/NAME", param_hint="NAMESPACE/NAME")
    told(explain(service, asked(cluster(kubeconfig, namespace)), classless), output, why_text)


@click.command()
@options.KUBECONFIG
@options.NAMESPACE
@options.CLASSLESS
@options.OUTPUT
@click.option("--check", is_flag=True, help="Fail unless somebody leads and every router hears a replica.")
def status(kubeconfig: str, namespace: str, classless: bool, output: str, check: bool) -> None:
    """One screen: who leads, routers, pools, Services that wait, nodes that are no next hops."""
    from porter_ha.core.overview import overview, wrongs
    from porter_ha.manager.explain import cluster, status_text

    found = overview(asked(cluster(kubeconfig, namespace)), classless)
    told(found, output, status_text)
    if check and (wrong := wrongs(found)):
        raise click.ClickException("; ".join(wrong))


@click.command()
@options.KUBECONFIG
@options.NAMESPACE
@options.OUTPUT
def peers(kubeconfig: str, namespace: str, output: str) -> None:
    """Every router's session with every replica."""
    from porter_ha.core.overview import overview
    from porter_ha.manager.explain import cluster, peers_text

    found = overview(asked(cluster(kubeconfig, namespace)), False)
    told(found.routers if output == "json" else found, output, peers_text)


@click.command()
@options.KUBECONFIG
@options.NAMESPACE
@options.CLASSLESS
@options.OUTPUT
def routes(kubeconfig: str, namespace: str, classless: bool, output: str) -> None:
    """Every EIP, its Service and its next hops."""
    from porter_ha.core.overview import routes as all_routes
    from porter_ha.manager.explain import cluster, routes_text

    told(all_routes(asked(cluster(kubeconfig, namespace)), classless), output, routes_text)


@click.command()
@click.argument("node")
@options.KUBECONFIG
def drain(node: str, kubeconfig: str) -> None:
    """Let NODE be a next hop no more: its connections end on it, new ones go elsewhere. `undrain` takes it back."""
    from porter_ha.manager import explain

    asked(explain.drain(kubeconfig, node, True))


@click.command()
@click.argument("node")
@options.KUBECONFIG
def undrain(node: str, kubeconfig: str) -> None:
    """Let NODE be a next hop again."""
    from porter_ha.manager import explain

    asked(explain.drain(kubeconfig, node, False))


@click.command()
@options.KUBECONFIG
@options.NAMESPACE
@click.option("--timeout", default=30.0, help="Seconds to wait for another leader.", show_default=True)
def handover(kubeconfig: str, namespace: str, timeout: float) -> None:
    """Let another replica lead, without losing a packet."""
    from porter_ha.manager.handover import hand_over

    before, after = asked(hand_over(kubeconfig, namespace, timeout))
    if not after:
        raise click.ClickException(f"{before or 'nobody'} still leads after {timeout:.0f} s; is another replica ready?")
    click.echo(f"handed over from {before} to {after}")


@click.command()
@options.KUBECONFIG
@options.NAMESPACE
@options.CLASSLESS
@click.option("--for", "seconds", type=float, help="End after so many seconds. Default: at Ctrl-C.")
def top(kubeconfig: str, namespace: str, classless: bool, seconds: float | None) -> None:
    """`status` and every session, live: drawn anew at every change. Piped, each new screen follows the last."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from porter_ha.core.overview import overview
    from porter_ha.core.why import Cluster
    from porter_ha.manager.explain import peers_text, status_text
    from porter_ha.manager.top import follow

    console, drawn = Console(), [""]
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:

        def show(cluster: Cluster) -> None:
            found = overview(cluster, classless)
            screen = f"{status_text(found)}\n\n{peers_text(found)}"
            if screen == drawn[0]:
                return
            drawn[0] = screen
            if console.is_terminal:
                live.update(Text(screen), refresh=True)
            else:
                click.echo(f"{screen}\n")

        asked(follow(kubeconfig, namespace, show, seconds))


COMMANDS = (why, status, peers, routes, drain, undrain, handover, top)
