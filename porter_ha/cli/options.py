"""What commands have in common: options that mean the same everywhere, questions to the API server, ways to answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
import msgspec

T = TypeVar("T")
KUBECONFIG = click.option("--kubeconfig", default="", envvar="KUBECONFIG", help="Default: the pod's service account.")
NAMESPACE = click.option(
    "--namespace", default="porter-ha-system", envvar="POD_NAMESPACE", help="Where the Lease lives."
)
OUTPUT = click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True)
NODE = click.option("--node", required=True, envvar="NODE_NAME", help="The node this runs on.")
CLASSLESS = click.option(
    "--classless/--no-classless", default=False, envvar="PORTER_CLASSLESS", help="Also Services without a class."
)


def told(found: object, output: str, text: Callable[[Any], str]) -> None:
    """An answer, in words or as JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if output == "json" else text(found))


def asked(question: Coroutine[Any, Any, T]) -> T:
    """What the API server answers. Its refusals are told in its own words."""
    from porter_ha.kube.client import ApiError, Unreachable
    from porter_ha.kube.credentials import NoCredentials

    try:
        return asyncio.run(question)
    except KeyboardInterrupt:
        raise click.Abort from None
    except (ApiError, Unreachable, NoCredentials) as error:
        raise click.ClickException(str(error)) from None
