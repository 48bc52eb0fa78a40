"""`porter-ha why`, `status`, `peers`, `routes` and `drain`: the cluster as the API server has it, for core/why.py and
core/overview.py to explain, and their answers in words. Only `drain` writes: one annotation of a Node.
"""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from porter_ha.core.overview import ESTABLISHED, Overview, Routed, Router
from porter_ha.core.why import Cluster, Explanation, Heard
from porter_ha.kube import credentials, paths
from porter_ha.kube.client import MERGE, Client
from porter_ha.kube.watch import listed
from porter_ha.model import names
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Lease, Namespace, Node, Service
from porter_ha.model.plan import Refusal

T = TypeVar("T")


async def cluster(kubeconfig: str, namespace: str) -> Cluster:
    """Everything that a decision looks at. Raises ApiError or Unreachable."""
    async with Client(await credentials.read(kubeconfig)) as client:
        return Cluster(
            services=await _all(client, paths.SERVICES, Service),
            slices=await _all(client, paths.ENDPOINT_SLICES, EndpointSlice),
            nodes=await _all(client, paths.NODES, Node),
            namespaces=await _all(client, paths.NAMESPACES, Namespace),
            eips=await _all(client, paths.EIPS, Eip),
            confs=await _all(client, paths.BGP_CONFS, BgpConf),
            peers=await _all(client, paths.BGP_PEERS, BgpPeer),
            leases=await _all(client, paths.leases(namespace), Lease),
        )


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


async def drain(kubeconfig: str, node: str, wanted: bool) -> None:
    """Let the node be a next hop no more, or again. Raises ApiError or Unreachable."""
    async with Client(await credentials.read(kubeconfig)) as client:
        body = {"metadata": {"annotations": {names.DRAIN_NODE_ANNOTATION: "true" if wanted else None}}}
        await client.request("PATCH", f"{paths.NODES}/{node}", body, content_type=MERGE)


# --- in words ------------------------------------------------------------------------------------------------


def why_text(found: Explanation) -> str:
    lines = [found.service]
    if found.hint:
        lines.append(f"  not ours: {found.hint}")
    if found.waits is not None:
        lines.append(f"  waits: {_refusal(found.waits)}")
    for eip in found.eips:
        lines.append(f"  EIP {eip.address} of Eip {eip.pool or '(none any more)'}")
        if eip.refusal is not None:
            lines.append(f"    not announced: {_refusal(eip.refusal)}")
        lines += [f"    via {hop.node} ({hop.address})" for hop in eip.next_hops]
        lines += [f"    not via {left.node}: {left.reason}: {left.meaning}" for left in eip.left_out]
    lines += [f"  {one.peer} ({one.router}), {_session(one)}" for one in found.routers]
    return "\n".join(lines)


def status_text(found: Overview) -> str:
    assigned = found.services - len(found.waiting)
    lines = [
        f"leader    {found.leader or 'nobody'}, term {found.epoch}; replicas on {', '.join(found.replicas) or '-'}"
    ]
    if found.conf is not None:
        lines.append(f"BgpConf   {_refusal(found.conf)}")
    lines += [f"router    {line}" for router in found.routers for line in _router(router)[:1]]
    for pool in found.pools:
        state = f"{pool.used} of {pool.size} held" if pool.refusal is None else _refusal(pool.refusal)
        lines.append(f"pool      {pool.name} ({pool.addresses}): {state}")
    lines.append(f"services  {assigned} of {found.services} have what they ask for")
    lines += [f"          {one.service} waits: {_refusal(one.refusal)}" for one in found.waiting]
    lines.append(f"nodes     {found.nodes - len(found.out)} of {found.nodes} may be next hops")
    lines += [f"          {one.node}: {one.reason}" for one in found.out]
    return "\n".join(lines)


def peers_text(found: Overview) -> str:
    return "\n".join(line for router in found.routers for line in _router(router))


def routes_text(found: Iterable[Routed]) -> str:
    lines = []
    for one in found:
        hops = ", ".join(hop.node for hop in one.eip.next_hops)
        state = f"via {hops}" if hops else _refusal(one.eip.refusal) if one.eip.refusal else "not announced"
        lines.append(f"{one.eip.address}  {one.service}  {state}")
    return "\n".join(lines)


def _router(router: Router) -> list[str]:
    if router.refusal is not None:
        return [f"{router.name} ({router.address}): {_refusal(router.refusal)}"]
    up = sum(one.state == ESTABLISHED for one in router.sessions)
    first = f"{router.name} ({router.address}): {up} of {len(router.sessions)} replicas have a session"
    return [first, *(f"  {_session(one)}" for one in router.sessions)]


def _session(one: Heard) -> str:
    error = f"; last error: {one.error}" if one.error else ""
    return f"replica on {one.replica}: {one.state}, {one.prefixes} EIPs announced{error}"


def _refusal(refusal: Refusal) -> str:
    return f"{refusal.reason}: {refusal.message}"
