"""What is wanted: who asks for an EIP, which nodes may carry it, and what each group of peers should hear.

All values; computed in core/, carried between processes by protocol.py.
"""

from porter_ha.model.net import family_of
from porter_ha.model.objects import LabelSelector
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value


class Refusal(Value, frozen=True):
    """Why something is not so: the Reason, and a message that names object, field, value and what would be right."""

    reason: Reason
    message: str


class Serving(Value, frozen=True):
    """Something serves the Service in this family, on these nodes (none is known of endpoints outside the cluster)."""

    family: int
    nodes: tuple[str, ...] = ()


class Sharing(Value, frozen=True):
    """On what terms a Service shares its addresses: with those of the same `key` and other (protocol, port)s.

    `backends` names the pods of a Service with externalTrafficPolicy Local, which only Services over the same pods can
    share with: routers send an address to the nodes of one set of pods. Empty for Cluster.
    """

    key: str
    ports: tuple[tuple[str, int], ...] = ()
    backends: str = ""


def namespace_of(key: str) -> str:
    """Of a Service's namespace/name."""
    return key.partition("/")[0]


class Claim(Value, frozen=True):
    """What one Service asks of the pools and of BGP; made by a shard from the Service and its EndpointSlices.

    `wants` is false for a Service that is not ours but whose addresses count as taken, and for one that was ours
    and must be given up (`recorded` is then true).
    """

    key: str
    uid: str
    created: str
    wants: bool
    families: tuple[int, ...] = ()
    all_families: bool = True
    wanted_addresses: tuple[str, ...] = ()
    wanted_pool: str = ""
    held: tuple[str, ...] = ()
    recorded: bool = False
    local: bool = False
    health_port: int = 0  # where kube-proxy says whether it serves a Local Service; 0: nowhere
    serving: tuple[Serving, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    sharing: Sharing | None = None
    refusal: Refusal | None = None

    @property
    def namespace(self) -> str:
        return namespace_of(self.key)


class Scope(Value, frozen=True):
    """Which nodes the peers of a group see as next hops. `peer` is the one peer of a group that some Eip names."""

    nodes: LabelSelector | None = None
    peer: str = ""


class NodeView(Value, frozen=True):
    """A node as a next hop: its InternalIPs by family, and the Reason when it may be none."""

    name: str
    addresses: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()
    refusal: Reason | None = None

    def address(self, family: int) -> str:
        for address in self.addresses:  # asked for every node of every set: a generator costs twice as much
            if family_of(address) == family:
                return address
        return ""


class Path(Value, frozen=True):
    """One way to an EIP: the add-path id of the next hop's node (RFC 7911), and the next hop."""

    path_id: int
    next_hop: str


class Tags(Value, frozen=True):
    """What routers are told about an EIP beside its next hops: communities (RFC 1997: 32 bits), large communities (RFC
    8092), and the local preference, which only routers of our own AS see."""

    communities: tuple[int, ...] = ()
    large: tuple[tuple[int, int, int], ...] = ()
    local_preference: int | None = None


class PathSet(Value, frozen=True):
    """The paths that many EIPs share. Interned by the planner; `number` names it on the wire between processes."""

    number: int
    med: int
    paths: tuple[Path, ...]
    tags: Tags = Tags()


class Listening(Value, frozen=True):
    """Where passive peers' routers find us; no port: nowhere, no address: on all of them."""

    port: int = 0
    addresses: tuple[str, ...] = ()


class Redirect(Value, frozen=True):
    """What `router` sends to `port` of this node (of these addresses of it, if any are given) is for `listening`."""

    router: str
    port: int
    listening: int
    to: tuple[str, ...] = ()


class PeerSettings(Value, frozen=True):
    """Everything that shapes one BGP session. A change here is a reset of this session and of no other; of its group
    and of `forwarded`, not even that.

    `ttl` is that of our packets, `min_ttl` the least that the router's may have (RFC 5082; 0: any). `passive`: the
    router dials us, and if `forwarded`, at port 179 although we listen elsewhere. `sources`: addresses to talk from;
    each replica takes the one that its node has.
    """

    name: str
    address: str
    port: int
    peer_as: int
    local_as: int
    router_id: str
    hold_time_s: int
    keepalive_s: int
    connect_retry_s: int
    families: tuple[int, ...]
    restart_time_s: int
    ttl: int
    password: str
    group: str
    min_ttl: int = 0
    passive: bool = False
    forwarded: bool = False
    sources: tuple[str, ...] = ()

    @property
    def ibgp(self) -> bool:
        return self.peer_as == self.local_as
