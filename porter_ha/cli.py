"""The command line: what a pod's entry point and a person type."""

import importlib
import ipaddress
import os
import socket
import sys
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from porter_ha import __version__

T = TypeVar("T")
_KUBECONFIG = click.option("--kubeconfig", default="", envvar="KUBECONFIG", help="Default: the pod's service account.")
_NAMESPACE = click.option(
    "--namespace", default="porter-ha-system", envvar="POD_NAMESPACE", help="Where the Lease lives."
)
_OUTPUT = click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True)
_NODE = click.option("--node", required=True, envvar="NODE_NAME", help="The node this runs on.")
_CLASSLESS = click.option(
    "--classless/--no-classless", default=False, envvar="PORTER_CLASSLESS", help="Also Services without a class."
)


@click.group()
@click.version_option(__version__)
def main() -> None:
    """EIPs for Kubernetes Services on bare metal, announced to routers over BGP."""


@main.command()
@_NODE
@_KUBECONFIG
@_CLASSLESS
@click.option("--node-address", "addresses", multiple=True, envvar="NODE_IPS", help="This node's addresses.")
@_NAMESPACE
@click.option("--shards", default=0, help="Shard processes; 0: one per core.")
@click.option("--metrics-address", default="", help="Where /metrics, /healthz and /readyz listen; default everywhere.")
@click.option("--metrics-port", default=7472)
@click.option("--link-port", default=7474, help="Where the other replicas reach this one.", show_default=True)
@click.option("--lease-duration", default=5.0, help="Seconds.", show_default=True)
@click.option(
    "--standby",
    type=click.Choice(["warm", "hot"]),
    default="warm",
    envvar="PORTER_STANDBY",
    show_default=True,
    help="hot: standbys announce too, at a worse MED, for routers without graceful restart.",
)
def manager(
    node: str,
    kubeconfig: str,
    classless: bool,
    addresses: tuple[str, ...],
    namespace: str,
    shards: int,
    metrics_address: str,
    metrics_port: int,
    link_port: int,
    lease_duration: float,
    standby: str,
) -> None:
    """Run a manager replica."""
    import uvloop

    from porter_ha.config import ManagerSettings
    from porter_ha.manager.main import run

    # The downward API separates a pod's or a host's addresses by commas.
    addresses = tuple(part for text in addresses for part in text.split(",") if part)
    for text in addresses:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not an IP address", param_hint="--node-address") from None
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}-{node}-{uuid.uuid4().hex[:8]}"
    settings = ManagerSettings(
        identity=identity,
        node=node,
        addresses=addresses,
        namespace=namespace,
        kubeconfig=kubeconfig,
        shards=shards,
        classless=classless,
        metrics_address=metrics_address,
        metrics_port=metrics_port,
        link_port=link_port,
        lease_duration_s=lease_duration,
        standby=standby,
    )
    uvloop.run(run(settings))


@main.command()
@_NODE
@_KUBECONFIG
@_CLASSLESS
@click.option("--metrics-address", default="")
@click.option("--metrics-port", default=7473)
@click.option("--remove", is_flag=True, help="Take everything of ours off this node, and end.")
def agent(node: str, kubeconfig: str, classless: bool, metrics_address: str, metrics_port: int, remove: bool) -> None:
    """Run the agent of a node."""
    from porter_ha.config import AgentSettings

    process = importlib.import_module("workers.agent")  # by name: workers are above this package
    if remove:
        process.remove()
    else:
        process.main(AgentSettings(node, kubeconfig, classless, metrics_address, metrics_port))


@main.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="A folder; default: print.")
def crds(output: Path | None) -> None:
    """Print the CustomResourceDefinitions, or write them as files. To upgrade them, which Helm leaves to people:
    `porter-ha crds | kubectl apply --server-side -f -`."""
    import yaml

    from porter_ha.model.crds import definitions

    for name, definition in definitions().items():
        text = yaml.safe_dump(definition, sort_keys=False, width=120)
        if output is None:
            click.echo(f"---\n{text}", nl=False)
        else:
            output.mkdir(parents=True, exist_ok=True)
            (output / name).write_text(
                f"# Written by `make crds` from porter_ha/model/crds.py.\n{text}", encoding="utf-8"
            )


@main.command()
@_KUBECONFIG
@_NAMESPACE
@click.option("--timeout", default=30.0, help="Seconds to wait for another leader.", show_default=True)
def handover(kubeconfig: str, namespace: str, timeout: float) -> None:
    """Let another replica lead, without losing a packet."""
    import asyncio

    from porter_ha.manager.handover import hand_over

    before, after = asyncio.run(hand_over(kubeconfig, namespace, timeout))
    if not after:
        raise click.ClickException(f"{before or 'nobody'} still leads after {timeout:.0f} s; is another replica ready?")
    click.echo(f"handed over from {before} to {after}")


@main.command()
@click.option(
    "--service-account", default="porter-ha-system:porter-ha-manager", help="NAMESPACE:NAME", show_default=True
)
def fence(service_account: str) -> None:
    """Print the admission policy that refuses writes of a leader whose term is over."""
    import yaml

    from porter_ha.model.fence import policy

    click.echo(yaml.safe_dump_all(policy(service_account), sort_keys=False, width=120), nl=False)


def _told(found: object, output: str, text: Callable[[Any], str]) -> None:
    """An answer, in words or as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if output == "json" else text(found))


def _asked(question: Coroutine[Any, Any, T]) -> T:
    """What the API server answers. Its refusals are told in its own words."""
    import asyncio

    from porter_ha.kube.client import ApiError, Unreachable
    from porter_ha.kube.credentials import NoCredentials

    try:
        return asyncio.run(question)
    except (ApiError, Unreachable, NoCredentials) as error:
        raise click.ClickException(str(error)) from None


@main.command()
def advice() -> None:
    """Print admission policies that warn of Eips, BgpConfs and BgpPeers that will be refused."""
    import yaml

    from porter_ha.model.advice import policies

    click.echo(yaml.safe_dump_all(policies(), sort_keys=False, width=120), nl=False)


@main.command()
@click.argument("service", metavar="NAMESPACE/NAME")
@_KUBECONFIG
@_NAMESPACE
@_CLASSLESS
@_OUTPUT
def why(service: str, kubeconfig: str, namespace: str, classless: bool, output: str) -> None:
    """Explain a Service: its EIP or why it has none, its next hops and why other nodes are none, what routers hear."""
    from porter_ha.core.why import explain
    from porter_ha.manager.explain import cluster, why_text

    if service.count("/") != 1:
        raise click.BadParameter(f"{service!r} is not NAMESPACE/NAME", param_hint="NAMESPACE/NAME")
    _told(explain(service, _asked(cluster(kubeconfig, namespace)), classless), output, why_text)


@main.command()
@_KUBECONFIG
@_NAMESPACE
@_CLASSLESS
@_OUTPUT
def status(kubeconfig: str, namespace: str, classless: bool, output: str) -> None:
    """One screen: who leads, routers, pools, Services that wait, nodes that are no next hops."""
    from porter_ha.core.overview import overview
    from porter_ha.manager.explain import cluster, status_text

    _told(overview(_asked(cluster(kubeconfig, namespace)), classless), output, status_text)


@main.command()
@_KUBECONFIG
@_NAMESPACE
@_OUTPUT
def peers(kubeconfig: str, namespace: str, output: str) -> None:
    """Every router's session with every replica."""
    from porter_ha.core.overview import overview
    from porter_ha.manager.explain import cluster, peers_text

    found = overview(_asked(cluster(kubeconfig, namespace)), False)
    _told(found.routers if output == "json" else found, output, peers_text)


@main.command()
@_KUBECONFIG
@_NAMESPACE
@_CLASSLESS
@_OUTPUT
def routes(kubeconfig: str, namespace: str, classless: bool, output: str) -> None:
    """Every EIP, its Service and its next hops."""
    from porter_ha.core.overview import routes as all_routes
    from porter_ha.manager.explain import cluster, routes_text

    _told(all_routes(_asked(cluster(kubeconfig, namespace)), classless), output, routes_text)


@main.command()
@click.argument("node")
@_KUBECONFIG
def drain(node: str, kubeconfig: str) -> None:
    """Let NODE be a next hop no more: its connections end on it, new ones go elsewhere. `undrain` takes it back."""
    from porter_ha.manager import explain

    _asked(explain.drain(kubeconfig, node, True))


@main.command()
@click.argument("node")
@_KUBECONFIG
def undrain(node: str, kubeconfig: str) -> None:
    """Let NODE be a next hop again."""
    from porter_ha.manager import explain

    _asked(explain.drain(kubeconfig, node, False))


@main.command()
@click.argument("files", nargs=-1, type=click.File("r", encoding="utf-8"))
@click.option("--finish", is_flag=True, help="Take Porter's and OpenELB's finalizers off; they must not run any more.")
@_KUBECONFIG
def migrate(files: tuple[TextIO, ...], finish: bool, kubeconfig: str) -> None:
    """Print as ours the settings of MetalLB (IPAddressPool, BGPPeer, BGPAdvertisement) or Porter v1alpha1 in FILES, or
    piped in: `kubectl get ipaddresspools,bgppeers,bgpadvertisements -A -o yaml | porter-ha migrate`.

    What has no equal here is told on stderr. Nothing is changed anywhere, but with --finish.
    """
    if finish:
        from porter_ha.manager import takeover

        for line in _asked(takeover.finish(kubeconfig)):
            click.echo(line)
        return
    import yaml

    from porter_ha.core import migrate as core

    try:
        documents = [d for file in files or (sys.stdin,) for d in yaml.safe_load_all(file) if d is not None]
        made = core.migrate(documents)
    except (yaml.YAMLError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(yaml.safe_dump_all(made.documents, sort_keys=False, width=120), nl=False)
    for remark in made.remarks:
        click.echo(remark, err=True)


@main.command()
def reasons() -> None:
    """Print docs/reasons.md: every reason that a condition or an event can give."""
    from porter_ha.model.reasons import Reason

    click.echo("# Reasons\n\nWhat conditions, events and metrics can give as a reason. Written by `make reasons`.\n")
    click.echo("| reason | meaning |\n|---|---|")
    for reason in Reason:
        click.echo(f"| `{reason}` | {reason.doc} |")


@main.command()
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


@main.command()
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


@main.command()
@click.argument("name")
@click.option("--live", is_flag=True, help="On the cluster of --kubeconfig, not in the lab: planned-handover only.")
@_KUBECONFIG
@_NAMESPACE
@click.option("--target", default="", metavar="EIP:PORT", help="With --live: a TCP service to connect to meanwhile.")
@click.option("--timeout", default=30.0, help="With --live: seconds to wait for another leader.", show_default=True)
def drill(name: str, live: bool, kubeconfig: str, namespace: str, target: str, timeout: float) -> None:
    """Run the failover drill NAME, or all of them, in the lab (from a source checkout).

    With --live, run it on a cluster in use. Only planned-handover is safe there; it prints a JSON result.
    """
    if not live:
        _lab(["drill", name])
        return
    import asyncio

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
    result = asyncio.run(planned_handover(kubeconfig, namespace, where, timeout))
    click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())
    if not result.ok:
        sys.exit(1)


@main.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """The cluster in a box: up, down, demo (from a source checkout)."""
    _lab(list(arguments))


def _lab(arguments: list[str]) -> None:
    """The lab belongs to tests/ and is not shipped: it is there when this package runs from its source checkout."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "tests" / "lab").is_dir():
        click.echo("the lab is part of the source checkout, which this installation is not", err=True)
        sys.exit(2)
    sys.path.insert(0, str(checkout))
    importlib.import_module("tests.lab.__main__").main(arguments)


if __name__ == "__main__":
    main()
