"""The whole installation on one screen: who leads, which routers hear whom, what pools have left, which Services wait.

Like core/why.py it asks the deciding code, with the cluster as the API server has it.
"""

from porter_ha.core.admit_eip import Pools
from porter_ha.core.reconciler import Reconciler
from porter_ha.core.why import Carried, Cluster, Heard, carried, decide, sessions
from porter_ha.model import names
from porter_ha.model.objects import Eip
from porter_ha.model.plan import Refusal
from porter_ha.model.value import Value

ESTABLISHED = "ESTABLISHED"  # as BgpPeers' status has it


class Router(Value, frozen=True):
    """A BgpPeer: its sessions with all replicas, or why it is refused."""

    name: str
    address: str
    sessions: tuple[Heard, ...]
    refusal: Refusal | None


class Pool(Value, frozen=True):
    """An Eip: how much of it is held, or why it is refused."""

    name: str
    addresses: str
    used: int
    size: int
    refusal: Refusal | None


class Waiting(Value, frozen=True):
    """A Service without the EIP that it asks for."""

    service: str
    refusal: Refusal


class Out(Value, frozen=True):
    """A node that is no next hop."""

    node: str
    reason: str


class Overview(Value, frozen=True):
    """`replicas` are the nodes on which managers have said that they run; `conf` says what is wrong with BgpConf."""

    leader: str
    epoch: int
    replicas: tuple[str, ...]
    conf: Refusal | None
    routers: tuple[Router, ...]
    pools: tuple[Pool, ...]
    services: int
    waiting: tuple[Waiting, ...]
    nodes: int
    out: tuple[Out, ...]


class Routed(Value, frozen=True):
    """An EIP of a Service."""

    service: str
    eip: Carried


def overview(cluster: Cluster, classless: bool) -> Overview:
    """Of everything."""
    decided, pools, peers = decide(cluster, classless)
    lease = next((found for found in cluster.leases if found.metadata.name == names.LEASE_NAME), None)
    replicas = [found.metadata.name for found in cluster.leases if names.REPLICA_LABEL in (found.metadata.labels or {})]
    heard = list(sessions(cluster))
    views = decided.planner.nodes.values()
    return Overview(
        leader=(lease.spec.holder_identity or "") if lease else "",
        epoch=(lease.spec.lease_transitions or 0) if lease else 0,
        replicas=tuple(sorted(name.removeprefix(names.REPLICA_LEASE_PREFIX) for name in replicas)),
        conf=peers.conf_refusals.get(names.BGP_CONF_NAME),
        routers=tuple(
            Router(
                name=peer.metadata.name,
                address=peer.spec.conf.neighbor_address if peer.spec.conf else "",
                sessions=tuple(one for one in heard if one.peer == peer.metadata.name),
                refusal=peers.refused.get(peer.metadata.name),
            )
            for peer in sorted(cluster.peers, key=lambda found: found.metadata.name)
        ),
        pools=tuple(_pool(eip, decided, pools) for eip in sorted(cluster.eips, key=lambda found: found.metadata.name)),
        services=sum(claim.wants for claim in decided.claims.values()),
        waiting=tuple(Waiting(key, refusal) for key, refusal in sorted(decided.waiting.items())),
        nodes=len(views),
        out=tuple(Out(view.name, view.refusal) for view in sorted(views, key=lambda v: v.name) if view.refusal),
    )


def wrongs(found: Overview) -> list[str]:
    """What a whole installation has not: nobody leads, or a router hears nobody."""
    deaf = [
        f"router {router.name} ({router.address}) has no session with any replica"
        for router in found.routers
        if router.refusal is None and all(one.state != ESTABLISHED for one in router.sessions)
    ]
    return deaf if found.leader else ["nobody leads", *deaf]


def _pool(eip: Eip, decided: Reconciler, pools: Pools) -> Pool:
    name, pool = eip.metadata.name, decided.allocator.pools.get(eip.metadata.name)
    used, size = (len(pool.used), pool.capacity) if pool is not None else (0, 0)
    return Pool(name, eip.spec.address, used, size, pools.refused.get(name))


def routes(cluster: Cluster, classless: bool) -> tuple[Routed, ...]:
    """Every EIP of every Service of ours, with its next hops."""
    decided, _, peers = decide(cluster, classless)
    return tuple(
        Routed(key, carried(address, key, decided, peers.scopes))
        for key, claim in sorted(decided.claims.items())
        if claim.wants
        for address in claim.held
    )
