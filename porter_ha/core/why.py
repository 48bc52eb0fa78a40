"""Explains one Service: which address and why that one, which nodes carry it and why others do not, what routers hear.

The very code that decides is asked, with the whole cluster as the API server has it now. What only a replica's probes
know (a node that died a second ago) is not in it; what replicas wrote into the BgpPeers' status is.

Must never: change anything.
"""

from collections.abc import Iterable, Mapping

import msgspec

from porter_ha.core.admit_bgp import Peers, Speaking, admit_bgp, community_aliases
from porter_ha.core.admit_eip import Pools, admit_eips
from porter_ha.core.eligibility import claim_of, opted_in
from porter_ha.core.next_hops import LOCAL, MAX_NEXT_HOPS, Spread
from porter_ha.core.nodes import Nodes
from porter_ha.core.reconciler import Reconciler
from porter_ha.model import names
from porter_ha.model.net import V4, V6
from porter_ha.model.objects import BgpConf, BgpPeer, Eip, EndpointSlice, Lease, Namespace, Node, Service
from porter_ha.model.plan import NodeView, Refusal
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value


class Cluster(Value, frozen=True):
    """All objects that a decision looks at."""

    services: tuple[Service, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    eips: tuple[Eip, ...] = ()
    confs: tuple[BgpConf, ...] = ()
    peers: tuple[BgpPeer, ...] = ()
    leases: tuple[Lease, ...] = ()


class Hop(Value, frozen=True):
    """A node that carries the EIP, and the next hop that routers see."""

    node: str
    address: str


class Left(Value, frozen=True):
    """A node that does not carry it."""

    node: str
    reason: str
    meaning: str


class Carried(Value, frozen=True):
    """An address of the Service."""

    address: str
    pool: str
    next_hops: tuple[Hop, ...]
    left_out: tuple[Left, ...]
    refusal: Refusal | None


class Heard(Value, frozen=True):
    """A session of a router with a replica, as that replica last wrote it."""

    peer: str
    router: str
    replica: str
    state: str
    prefixes: int
    error: str


class Explanation(Value, frozen=True):
    """`hint` says what would make the Service ours; `waits` why it has no EIP, or not the one it asks for."""

    service: str
    hint: str = ""
    waits: Refusal | None = None
    eips: tuple[Carried, ...] = ()
    routers: tuple[Heard, ...] = ()


class _Session(msgspec.Struct, rename="camel"):
    """An entry of a BgpPeer's status.nodesPeerStatus."""

    peer_state: dict[str, object] = {}
    prefixes: int = 0
    last_error: str = ""


def explain(key: str, cluster: Cluster, classless: bool) -> Explanation:
    """Of the Service NAMESPACE/NAME."""
    service = next((s for s in cluster.services if s.metadata.key == key), None)
    if service is None:
        return Explanation(key, hint="there is no such Service")
    if not opted_in(service, classless):
        return Explanation(key, hint=_hint(service), waits=_waits(service, key, cluster, classless))
    decided, _, peers = decide(cluster, classless)
    held = decided.claims[key].held if key in decided.claims else ()
    return Explanation(
        service=key,
        waits=decided.waiting.get(key),
        eips=tuple(carried(address, key, decided, peers.scopes) for address in held),
        routers=tuple(sessions(cluster)),
    )


def _hint(service: Service) -> str:
    if service.spec.type != "LoadBalancer":
        return f"spec.type is {service.spec.type}: only LoadBalancer Services get EIPs"
    if service.spec.load_balancer_class:
        ours, theirs = names.LOAD_BALANCER_CLASS, service.spec.load_balancer_class
        return f"spec.loadBalancerClass is {theirs}, which is another controller's; ours is {ours}"
    return f"it does not ask us: annotate it {names.OPT_IN_ANNOTATION}={names.OPT_IN_VALUES[0]}"


def _waits(service: Service, key: str, cluster: Cluster, classless: bool) -> Refusal | None:
    claim = claim_of(service, (s for s in cluster.slices if s.service_key == key), classless)
    return claim.refusal if claim is not None else None


def decide(cluster: Cluster, classless: bool) -> tuple[Reconciler, Pools, Peers]:
    """What a leader would decide now, and the pools and peers that it would admit for that."""
    made, slices = Reconciler(), _by_service(cluster.slices)
    pools = admit_eips(cluster.eips, community_aliases(cluster.confs))
    peers = admit_bgp(cluster.confs, cluster.peers, Speaking("", ()), pools.named_peers)
    made.set_scopes(peers.scopes)
    for namespace in cluster.namespaces:
        made.set_namespace(namespace.metadata.name, namespace.metadata.labels or {}, 0.0)
    made.change_nodes(_views(cluster.nodes))
    made.set_pools(pools, 0.0)
    for service in cluster.services:
        claim = claim_of(service, slices.get(service.metadata.key, ()), classless)
        if claim is not None:
            made.set_claim(claim, 0.0)
    made.begin_term(0.0)
    return made, pools, peers


def _by_service(slices: Iterable[EndpointSlice]) -> Mapping[str, list[EndpointSlice]]:
    found: dict[str, list[EndpointSlice]] = {}
    for part in slices:
        found.setdefault(part.service_key, []).append(part)
    return found


def _views(nodes: Iterable[Node]) -> dict[str, NodeView | None]:
    made = Nodes()
    for node in nodes:
        made.set_node(node.metadata.name, node)
    return made.drain()


def carried(address: str, key: str, decided: Reconciler, groups: Iterable[str]) -> Carried:
    pool = decided.allocator.pool_of(address)
    routes = decided.route_keys(address)
    spread = next((found for route in routes if (found := decided.planner.spreads.get(route))), None)
    nodes = decided.planner.nodes
    by_hop = {view.address(family): name for name, view in nodes.items() for family in (V4, V6)}
    paths = {path for group in groups for route in routes for path in decided.planner.paths(group, route)}
    hops = tuple(sorted((Hop(by_hop[p.next_hop], p.next_hop) for p in paths), key=lambda hop: hop.node))
    carrying = {hop.node for hop in hops}
    left = tuple(_left(view, spread) for name, view in sorted(nodes.items()) if name not in carrying)
    refusal = None if key in decided.waiting else decided.why(key)
    if spread is None and refusal is None:
        refusal = Refusal(Reason.ADDRESS_CONFLICT, f"{address} in its status is not recorded as ours")
    return Carried(address, pool.settings.name if pool else "", hops, left if spread else (), refusal)


def _left(view: NodeView, spread: Spread | None) -> Left:
    if view.refusal is not None:
        return Left(view.name, view.refusal, view.refusal.doc)
    if spread is not None and not view.address(spread.family):
        return Left(view.name, Reason.NODE_NO_ADDRESS, Reason.NODE_NO_ADDRESS.doc)
    if spread is not None and spread.bucket == LOCAL and view.name not in spread.nodes:
        return Left(view.name, Reason.NO_ENDPOINTS, "externalTrafficPolicy is Local, and no ready endpoint is here.")
    return Left(view.name, Reason.NO_NODES, f"Out of every BgpPeer's nodeSelector, or {MAX_NEXT_HOPS} others carry it.")


def sessions(cluster: Cluster) -> Iterable[Heard]:
    """Of every router with every replica, as the replicas last wrote them."""
    for peer in sorted(cluster.peers, key=lambda p: p.metadata.name):
        router = peer.spec.conf.neighbor_address if peer.spec.conf else ""
        for node, raw in sorted((peer.status.nodes_peer_status or {}).items()):
            try:
                session = msgspec.json.decode(raw, type=_Session)
            except msgspec.DecodeError as error:
                yield Heard(peer.metadata.name, router, node, "unreadable", 0, str(error))
                continue
            state = str(session.peer_state.get("sessionState", ""))
            yield Heard(peer.metadata.name, router, node, state, session.prefixes, session.last_error)
