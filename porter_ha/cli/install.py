"""What is needed once: to install, to come from another load balancer, to leave."""

import sys
from pathlib import Path
from typing import TextIO

import click

from porter_ha.cli import options
from porter_ha.cli.options import asked


@click.command()
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


@click.command()
@click.option(
    "--service-account", default="porter-ha-system:porter-ha-manager", help="NAMESPACE:NAME", show_default=True
)
def fence(service_account: str) -> None:
    """Print the admission policy that refuses writes of a leader whose term is over."""
    import yaml

    from porter_ha.model.fence import policy

    click.echo(yaml.safe_dump_all(policy(service_account), sort_keys=False, width=120), nl=False)


@click.command()
def advice() -> None:
    """Print admission policies that warn of Eips, BgpConfs and BgpPeers that will be refused."""
    import yaml

    from porter_ha.model.advice import policies

    click.echo(yaml.safe_dump_all(policies(), sort_keys=False, width=120), nl=False)


@click.command()
@click.argument("files", nargs=-1, type=click.File("r", encoding="utf-8"))
@click.option("--finish", is_flag=True, help="Take Porter's and OpenELB's finalizers off; they must not run any more.")
@options.KUBECONFIG
def migrate(files: tuple[TextIO, ...], finish: bool, kubeconfig: str) -> None:
    """Print as ours the settings of MetalLB (IPAddressPool, BGPPeer, BGPAdvertisement) or Porter v1alpha1 in FILES, or
    piped in: `kubectl get ipaddresspools,bgppeers,bgpadvertisements -A -o yaml | porter-ha migrate`.

    What has no equal here is told on stderr. Nothing is changed anywhere, but with --finish.
    """
    if finish:
        from porter_ha.manager import takeover

        for line in asked(takeover.finish(kubeconfig)):
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


@click.command()
@options.KUBECONFIG
@options.NAMESPACE
@click.option("--timeout", default=30.0, help="Seconds that each step may take.", show_default=True)
@click.option("--strict/--no-strict", default=True, help="Fail when something could not be done.", show_default=True)
def uninstall(kubeconfig: str, namespace: str, timeout: float, strict: bool) -> None:
    """Take the installation out of the network: sessions, managers, then what agents have put on nodes.

    `helm uninstall` does this first. Eips, BgpConf, BgpPeers and the addresses in Service status stay.
    """
    from porter_ha.manager.uninstall import uninstall as leave

    if not asked(leave(kubeconfig, namespace, timeout, click.echo)) and strict:
        raise click.ClickException("not everything could be done; see above")


COMMANDS = (crds, fence, advice, migrate, uninstall)
