"""What a pod's entry point types: a manager, an agent."""

import importlib
import ipaddress
import os
import socket
import uuid

import click

from porter_ha.cli import options


@click.command()
@options.NODE
@options.KUBECONFIG
@options.CLASSLESS
@click.option("--node-address", "addresses", multiple=True, envvar="NODE_IPS", help="This node's addresses.")
@options.NAMESPACE
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


@click.command()
@options.NODE
@options.KUBECONFIG
@options.CLASSLESS
@click.option("--metrics-address", default="")
@click.option("--metrics-port", default=7473)
@click.option("--remove", is_flag=True, help="Take everything of ours off this node, and end.")
@click.option("--retire", is_flag=True, help="The same, but stay, and say ready: for `porter-ha uninstall`.")
def agent(
    node: str,
    kubeconfig: str,
    classless: bool,
    metrics_address: str,
    metrics_port: int,
    remove: bool,
    retire: bool,
) -> None:
    """Run the agent of a node."""
    from porter_ha.config import AgentSettings

    process = importlib.import_module("workers.agent")  # by name: workers are above this package
    settings = AgentSettings(node, kubeconfig, classless, metrics_address, metrics_port)
    if remove:
        process.remove()
    elif retire:
        process.retire(settings)
    else:
        process.main(settings)


COMMANDS = (manager, agent)
