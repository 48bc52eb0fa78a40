"""`porter-ha why`: the cluster as the API server has it, for core/why.py to explain a Service. Reads only."""

from typing import TypeVar

import msgspec

from porter_ha.core.why import Cluster, Explanation, explain
from porter_ha.kube import credentials, paths
from porter_ha.kube.client import Client
from porter_ha.kube.watch import listed
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Namespace, Node, Service

T = TypeVar("T")


async def why(kubeconfig: str, key: str, classless: bool) -> Explanation:
    """Of the Service NAMESPACE/NAME. Raises ApiError or Unreachable."""
    async with Client(await credentials.read(kubeconfig)) as client:
        cluster = Cluster(
            services=await _all(client, paths.SERVICES, Service),
            slices=await _all(client, paths.ENDPOINT_SLICES, EndpointSlice),
            nodes=await _all(client, paths.NODES, Node),
            namespaces=await _all(client, paths.NAMESPACES, Namespace),
            eips=await _all(client, paths.EIPS, Eip),
            confs=await _all(client, paths.BGP_CONFS, BgpConf),
            peers=await _all(client, paths.BGP_PEERS, BgpPeer),
        )
    return explain(key, cluster, classless)


async def _all(client: Client, path: str, kind: type[T]) -> tuple[T, ...]:
    """Every object of a kind that can be read: others hurt nobody here either (I9)."""
    found: list[T] = []
    async for page in listed(client, path, {}):
        for raw in page.items or ():
            try:
                found.append(msgspec.json.decode(raw, type=kind))
            except msgspec.DecodeError:
                continue
    return tuple(found)


def text(found: Explanation) -> str:
    """For people."""
    lines = [found.service]
    if found.hint:
        lines.append(f"  not ours: {found.hint}")
    if found.waits is not None:
        lines.append(f"  waits: {found.waits.reason}: {found.waits.message}")
    for eip in found.eips:
        lines.append(f"  EIP {eip.address} of Eip {eip.pool or '(none any more)'}")
        if eip.refusal is not None:
            lines.append(f"    not announced: {eip.refusal.reason}: {eip.refusal.message}")
        lines += [f"    via {hop.node} ({hop.address})" for hop in eip.next_hops]
        lines += [f"    not via {left.node}: {left.reason}: {left.meaning}" for left in eip.left_out]
    for heard in found.routers:
        said = f"{heard.prefixes} EIPs announced" + (f"; last error: {heard.error}" if heard.error else "")
        lines.append(f"  {heard.peer} ({heard.router}), replica on {heard.replica}: {heard.state}, {said}")
    return "\n".join(lines)
