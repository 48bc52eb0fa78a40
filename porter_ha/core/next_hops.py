"""Which nodes carry an EIP, and under which add-path id each is known.

Invariants
  The answer depends on the inputs alone, so every replica and every term gives the same one (design 2.2: a path
  id must outlive the replica that sent it, or routers keep stale paths).
  A Cluster EIP's set depends only on its bucket; one node's death changes only sets that contain the node.
  A node that drains carries an EIP only where no other can: leaving it then would cut the EIP off. Routers hear of such
  paths with the community GRACEFUL_SHUTDOWN (RFC 8326), so that any other way is better.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from heapq import nsmallest
from zlib import crc32

from porter_ha.model.net import family_of, prefix_around
from porter_ha.model.plan import Claim, NodeView, Path, Refusal, Tags
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value

MAX_NEXT_HOPS = 64  # a common ECMP width; routers ignore or refuse more
NEXT_HOP_BUCKETS = 128  # how many distinct sets Cluster EIPs spread over once there are more nodes than that
LOCAL = -1
GRACEFUL_SHUTDOWN = 0xFFFF0000


class Offer(Value, frozen=True):
    """How a route is offered to some peers; no names: to all."""

    peers: tuple[str, ...] = ()
    tags: Tags = Tags()


class Route(Value, frozen=True):
    """A route that is announced for an EIP: its prefix length (0: the address alone), and to whom it is offered how.
    Of several Offers that name a peer the first counts."""

    length: int = 0
    offers: tuple[Offer, ...] = (Offer(),)

    def over(self, address: str) -> str:
        """The route's key: the address, or the prefix around it."""
        return prefix_around(address, self.length) if self.length else address


HOST_ROUTE = Route()


class Spread(Value, frozen=True):
    """Names a set of next hops: a bucket of all eligible nodes, or (bucket LOCAL) exactly the nodes listed. With what
    peers are told beside them."""

    family: int
    bucket: int
    nodes: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = HOST_ROUTE.offers


def spread_of(address: str, claim: Claim, route: Route = HOST_ROUTE) -> Spread | Refusal:
    """How a route to the EIP is spread over nodes, or why it is not announced at all."""
    family = family_of(address)
    serving = next((s for s in claim.serving if s.family == family), None)
    if serving is None:
        return Refusal(Reason.NO_ENDPOINTS, f"no IPv{family} endpoint of the Service is ready; {address} is withdrawn")
    if claim.local:
        return Spread(family, LOCAL, serving.nodes, route.offers)
    return Spread(family, crc32(route.over(address).encode()) % NEXT_HOP_BUCKETS, (), route.offers)


def merged(spreads: Collection[Spread]) -> Spread:
    """One route of several Services (a shared address, or a prefix around many): on all nodes if any of them is, else
    on every node that serves one of them."""
    first, *others = spreads
    if not others:
        return first
    offers = tuple(dict.fromkeys(offer for spread in spreads for offer in spread.offers))
    everywhere = next((s for s in spreads if s.bucket != LOCAL), None)
    if everywhere is not None:
        return Spread(first.family, everywhere.bucket, (), offers)
    nodes = {name for spread in spreads for name in spread.nodes}
    return Spread(first.family, LOCAL, tuple(sorted(nodes)), offers)


def path_ids(nodes: Iterable[str]) -> dict[str, int]:
    """A number for each node name: its CRC-32, with collisions resolved in name order. Never 0 (RFC 7911 allows it,
    old routers do not)."""
    taken: set[int] = set()
    ids: dict[str, int] = {}
    for name in sorted(nodes):
        number = crc32(name.encode()) or 1
        while number in taken:
            number = number % 0xFFFFFFFF + 1
        taken.add(number)
        ids[name] = number
    return ids


@lru_cache(maxsize=1 << 14)
def _hash(text: str) -> int:
    return crc32(text.encode())


def rank(bucket: int, name: str) -> tuple[int, str]:
    """The place of a node in a bucket's own order of nodes (rendezvous hashing): the lowest carry it."""
    return _hash(name) * (2 * _hash(f"bucket {bucket}") + 1) & 0xFFFFFFFF, name


def choose_nodes(spread: Spread, eligible: Mapping[str, NodeView]) -> Sequence[NodeView]:
    """The nodes that carry a Spread, by name, of those that may (already without refused and out-of-scope nodes). None
    of them drains, or all do."""
    if spread.bucket == LOCAL:
        candidates = [eligible[name] for name in spread.nodes if name in eligible]
    else:
        candidates = list(eligible.values())
    candidates = [node for node in candidates if node.address(spread.family)]
    candidates = [node for node in candidates if node.refusal is None] or candidates
    if len(candidates) > MAX_NEXT_HOPS:
        candidates = nsmallest(MAX_NEXT_HOPS, candidates, key=lambda node: rank(spread.bucket, node.name))
    return sorted(candidates, key=lambda node: node.name)


def paths_of(spread: Spread, eligible: Mapping[str, NodeView], ids: Mapping[str, int]) -> tuple[Path, ...]:
    """The paths of a Spread. Empty: withdrawn."""
    return paths_over(choose_nodes(spread, eligible), spread.family, ids)


def paths_over(nodes: Iterable[NodeView], family: int, ids: Mapping[str, int]) -> tuple[Path, ...]:
    """The paths over these nodes, in path id order."""
    return tuple(sorted((Path(ids[n.name], n.address(family)) for n in nodes), key=lambda p: p.path_id))


def why_none(spread: Spread, nodes: Mapping[str, NodeView]) -> Refusal:
    """Explains a Spread without paths: each node that might have carried it, with its Reason."""
    names = spread.nodes if spread.bucket == LOCAL else sorted(nodes)
    verdicts = []
    for name in names:
        view = nodes.get(name)
        if view is None:
            verdicts.append(f"{name}: unknown node")
        elif view.refusal is not None:
            verdicts.append(f"{name}: {view.refusal}")
        elif not view.address(spread.family):
            verdicts.append(f"{name}: {Reason.NODE_NO_ADDRESS} of IPv{spread.family}")
        else:
            verdicts.append(f"{name}: out of the peer's scope")
    return Refusal(Reason.NO_NODES, "no node may be a next hop: " + ("; ".join(verdicts) or "there are no nodes"))
