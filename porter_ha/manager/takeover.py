"""`porter-ha migrate --finish`: what Porter and OpenELB leave in objects after they are gone, taken out.

Their finalizers keep Services, Eips, BgpConfs and BgpPeers from ever being deleted once nobody clears them. Addresses
in Service status stay as they are: Porter HA adopts them where an Eip of its own has them.

Must never: remove a finalizer of anybody else, or one while its controller may still run (that is the user's to say).
"""

from collections.abc import Iterable

import msgspec

from porter_ha.kube import credentials, paths
from porter_ha.kube.client import JSON_PATCH, Client
from porter_ha.kube.watch import listed
from porter_ha.model.names import FOREIGN_FINALIZERS

_KINDS = {"Service": paths.SERVICES, "Eip": paths.EIPS, "BgpConf": paths.BGP_CONFS, "BgpPeer": paths.BGP_PEERS}


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str
    namespace: str = ""
    finalizers: list[str] | None = None


class _Object(msgspec.Struct):
    metadata: _Meta


def others(finalizers: Iterable[str]) -> list[str]:
    """Those that are not Porter's or OpenELB's. Old agents added one per node, with its name at the end."""
    return [one for one in finalizers if not one.startswith(FOREIGN_FINALIZERS)]


async def finish(kubeconfig: str) -> list[str]:
    """Take them out everywhere; returns "Kind name: finalizer" for each. Raises ApiError or Unreachable."""
    done: list[str] = []
    async with Client(await credentials.read(kubeconfig)) as client:
        for kind, path in _KINDS.items():
            async for page in listed(client, path, {}):
                for raw in page.items or ():
                    done += await _clear(client, kind, path, msgspec.json.decode(raw, type=_Object).metadata)
    return done


async def _clear(client: Client, kind: str, path: str, meta: _Meta) -> list[str]:
    finalizers = meta.finalizers or []
    kept = others(finalizers)
    if kept == finalizers:
        return []
    where = f"{paths.service(f'{meta.namespace}/{meta.name}')}" if meta.namespace else f"{path}/{meta.name}"
    steps = [  # the version: should somebody change the object meanwhile, the API server refuses, and it is run again
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {"op": "replace", "path": "/metadata/finalizers", "value": kept},
    ]
    await client.request("PATCH", where, steps, content_type=JSON_PATCH)
    title = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
    return [f"{kind} {title}: {one}" for one in finalizers if one not in kept]
