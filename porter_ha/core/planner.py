"""From EIPs and nodes to the Adj-RIB-Out of each group of peers, incrementally.

EIPs are filed under their Spread, and a Spread is resolved to paths once per group. So one Service's change costs
the same whatever the size of the cluster, and a node's change resolves again only the Spreads that it carries or might
carry, and touches only EIPs whose paths became different. `compute` says the same from scratch; they must agree (I8, a
property test).

Must never: drop a change (what `drain` returned is what peers must hear), number two path sets alike, or keep a set
that nothing uses.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from porter_ha.core import selectors
from porter_ha.core.next_hops import (
    GRACEFUL_SHUTDOWN,
    LOCAL,
    MAX_NEXT_HOPS,
    Spread,
    choose_nodes,
    path_ids,
    paths_over,
    rank,
)
from porter_ha.model.effects import Announce
from porter_ha.model.plan import NodeView, Path, PathSet, Scope, Tags
from porter_ha.model.reasons import Reason

MED_BASE = 1_000_000_000
STANDBY_MED = MED_BASE  # worse than any leader's


def med_of(epoch: int, standing_in: bool = False) -> int:
    """The MED of a term. Each term's is lower than the one before, so routers prefer the newest leader (fence 2).

    `standing_in` is for a standby that announces for a dead leader before anybody could be elected: better than that
    leader's, worse than any later term's.
    """
    return max(0, MED_BASE - 2 * epoch - standing_in)


def eligible_nodes(nodes: Mapping[str, NodeView], scope: Scope) -> dict[str, NodeView]:
    """The nodes that peers with this scope may see as next hops; those that drain only where there is no other."""
    return {
        name: view
        for name, view in nodes.items()
        if view.refusal in (None, Reason.NODE_DRAINING) and selectors.matches(scope.nodes, dict(view.labels))
    }


def tags_for(spread: Spread, scope: Scope) -> Tags | None:
    """What the peers of a scope are told beside the next hops; None when the route is not offered to them at all."""
    for offer in spread.offers:
        if not offer.peers or (scope.peer and scope.peer in offer.peers):
            return offer.tags
    return None


def leaving(tags: Tags, chosen: Sequence[NodeView]) -> Tags:
    """The tags of paths over these nodes: that the nodes are leaving, where they are."""
    if all(node.refusal is None for node in chosen):
        return tags
    return replace(tags, communities=tuple(dict.fromkeys((*tags.communities, GRACEFUL_SHUTDOWN))))


def compute(
    spreads: Mapping[str, Spread], nodes: Mapping[str, NodeView], scope: Scope
) -> dict[str, tuple[Tags, tuple[Path, ...]]]:
    """The whole Adj-RIB-Out of one scope from scratch: route -> what is told of it, without those that have no path."""
    eligible, ids = eligible_nodes(nodes, scope), path_ids(nodes)
    found = {}
    for route, spread in spreads.items():
        tags, chosen = tags_for(spread, scope), choose_nodes(spread, eligible)
        if tags is not None and chosen:
            found[route] = (leaving(tags, chosen), paths_over(chosen, spread.family, ids))
    return found


class Resolved(NamedTuple):
    """A Spread in a group: the number of its paths (None: it has none); of a Spread over all nodes also which carry it,
    and the worst of their ranks when no more fit."""

    number: int | None
    nodes: frozenset[str] = frozenset()
    worst: tuple[int, str] | None = None


class Group:
    """A group of peers: its scope, the nodes that it may see, what it was told, and which EIPs it may hear anew."""

    def __init__(self, scope: Scope, nodes: Mapping[str, NodeView]) -> None:
        self.scope = scope
        self.eligible = eligible_nodes(nodes, scope)
        self.resolved: dict[Spread, Resolved] = {}
        self.told: set[int] = set()
        self.dirty: dict[str, None] = {}

    def place(self, name: str, view: NodeView | None) -> tuple[NodeView | None, NodeView | None]:
        """A node changed (None: it is gone); returns how the group saw it and how it sees it now."""
        before = self.eligible.pop(name, None)
        after = eligible_nodes({name: view}, self.scope).get(name) if view is not None else None
        if after is not None:
            self.eligible[name] = after
        return before, after


class Planner:
    def __init__(self) -> None:
        self._nodes: dict[str, NodeView] = {}
        self._ids: dict[str, int] = {}
        self._spreads: dict[str, Spread] = {}
        self._members: dict[Spread, dict[str, None]] = {}
        self._naming: dict[str, dict[Spread, None]] = {}  # node -> the Local Spreads that list it
        self._buckets: dict[Spread, None] = {}  # the Spreads over all nodes
        self._groups: dict[str, Group] = {}
        self._numbers: dict[tuple[int, Tags, tuple[Path, ...]], int] = {}
        self._sets: dict[int, PathSet] = {}
        self._uses: dict[int, int] = {}
        self._numbered = 0
        self._med = STANDBY_MED

    # -- inputs

    def set_nodes(self, nodes: Mapping[str, NodeView]) -> None:
        """All nodes, as they are now."""
        gone: dict[str, NodeView | None] = dict.fromkeys(self._nodes.keys() - nodes.keys())
        self.change_nodes({**gone, **nodes})

    def change_nodes(self, changes: Mapping[str, NodeView | None]) -> None:
        """These nodes are so now, or no more (None). Costs what the Spreads cost that they carry or might."""
        real = {name: view for name, view in changes.items() if self._nodes.get(name) != view}
        known = set(self._nodes)
        for name, view in real.items():
            if view is None:
                del self._nodes[name]
            else:
                self._nodes[name] = view
        renumbered = self._number_nodes() if self._nodes.keys() != known else set()
        for group in self._groups.values():
            affected: dict[Spread, None] = {}
            for name in real:
                before, after = group.place(name, real[name])
                if before != after:
                    affected.update(dict.fromkeys(self._carrying(group, name, after is not None)))
            for name in renumbered - real.keys():
                affected.update(dict.fromkeys(self._carrying(group, name, False)))
            for spread in affected:
                self._resolve(group, spread)

    def set_scopes(self, scopes: Mapping[str, Scope]) -> None:
        """The groups of peers. A new group, or one whose scope changed, hears everything again."""
        for name in [n for n, group in self._groups.items() if n not in scopes or group.scope != scopes[n]]:
            for resolved in self._groups.pop(name).resolved.values():
                self._drop(resolved.number)
        for name, scope in scopes.items():
            if name not in self._groups:
                group = self._groups[name] = Group(scope, self._nodes)
                for spread in self._members:
                    self._resolve(group, spread)
                self.resend(name)

    def set_med(self, med: int) -> None:
        """A new term: every path is announced again with its MED."""
        if med == self._med:
            return
        self._med = med
        for group in self._groups.values():
            for spread, resolved in group.resolved.items():
                if resolved.number is not None:
                    known = self._sets[resolved.number]
                    self._file(group, spread, known.tags, known.paths, resolved)

    def spread(self, address: str, spread: Spread | None) -> None:
        """File the EIP under `spread`; None withdraws it."""
        old = self._spreads.get(address)
        if old == spread:
            return
        if spread is not None:
            self._spreads[address] = spread
            if spread not in self._members:
                self._add(spread)
            self._members[spread][address] = None
        else:
            del self._spreads[address]
        if old is not None:
            members = self._members[old]
            del members[address]
            if not members:
                self._remove(old)
        for group in self._groups.values():
            group.dirty[address] = None

    def resend(self, name: str) -> None:
        """Forget what the group was told (its speaker started anew): it hears everything again."""
        group = self._groups[name]
        group.told, group.dirty = set(), dict.fromkeys(self._spreads)

    # -- output

    def drain(self) -> list[Announce]:
        """What each group must hear since the last call."""
        out = []
        for name, group in self._groups.items():
            if not group.dirty:
                continue
            changes: dict[str, int | None] = {}
            for address in group.dirty:
                spread = self._spreads.get(address)
                changes[address] = None if spread is None else group.resolved[spread].number
            new = {n for n in changes.values() if n is not None} - group.told
            group.told |= new
            out.append(Announce(name, tuple(self._sets[n] for n in sorted(new)), changes))
            group.dirty = {}
        return out

    @property
    def nodes(self) -> Mapping[str, NodeView]:
        return self._nodes

    @property
    def spreads(self) -> Mapping[str, Spread]:
        return self._spreads

    @property
    def sets(self) -> int:
        """How many distinct sets of paths there are now."""
        return len(self._sets)

    def told(self, group: str, route: str) -> tuple[Tags, tuple[Path, ...]] | None:
        """What the peers of the group hear of a route; None: nothing."""
        spread = self._spreads.get(route)
        number = None if spread is None else self._groups[group].resolved[spread].number
        return None if number is None else (self._sets[number].tags, self._sets[number].paths)

    def paths(self, group: str, route: str) -> tuple[Path, ...]:
        told = self.told(group, route)
        return () if told is None else told[1]

    # -- within: Spreads

    def _add(self, spread: Spread) -> None:
        self._members[spread] = {}
        if spread.bucket == LOCAL:
            for name in spread.nodes:
                self._naming.setdefault(name, {})[spread] = None
        else:
            self._buckets[spread] = None
        for group in self._groups.values():
            self._resolve(group, spread)

    def _remove(self, spread: Spread) -> None:
        del self._members[spread]
        self._buckets.pop(spread, None)
        if spread.bucket == LOCAL:
            for name in spread.nodes:
                naming = self._naming[name]
                del naming[spread]
                if not naming:
                    del self._naming[name]
        for group in self._groups.values():
            self._drop(group.resolved.pop(spread).number)

    def _carrying(self, group: Group, name: str, may_join: bool) -> Iterator[Spread]:
        """The Spreads that the node carries in this group, or may carry from now on."""
        yield from self._naming.get(name, ())
        for spread in self._buckets:
            resolved = group.resolved[spread]
            fits = resolved.worst is None or rank(spread.bucket, name) < resolved.worst
            if name in resolved.nodes or (may_join and fits):
                yield spread

    # -- within: nodes to paths

    def _number_nodes(self) -> set[str]:
        """Path ids again, as nodes came or went; returns those whose number became another (a collision's end)."""
        ids, before = path_ids(self._nodes), self._ids
        self._ids = ids
        return {name for name, number in ids.items() if before.get(name, number) != number}

    def _resolve(self, group: Group, spread: Spread) -> None:
        chosen = choose_nodes(spread, group.eligible)
        found = Resolved(None)
        if spread.bucket != LOCAL:
            full = len(chosen) == MAX_NEXT_HOPS and chosen[0].refusal is None  # who does not drain goes before who does
            worst = max(rank(spread.bucket, node.name) for node in chosen) if full else None
            found = Resolved(None, frozenset(node.name for node in chosen), worst)
        tags = tags_for(spread, group.scope)
        told = None if tags is None else leaving(tags, chosen)
        self._file(group, spread, told, paths_over(chosen, spread.family, self._ids), found)

    def _file(
        self, group: Group, spread: Spread, tags: Tags | None, paths: tuple[Path, ...], found: "Resolved"
    ) -> None:
        """These are the Spread's tags and paths now: whoever has it hears of a difference."""
        before = group.resolved.get(spread)
        number = self._intern(tags, paths) if paths and tags is not None else None
        group.resolved[spread] = found._replace(number=number)
        if before is not None:
            self._drop(before.number)
        if before is None or before.number != number:
            group.dirty.update(self._members[spread])

    def _intern(self, tags: Tags, paths: tuple[Path, ...]) -> int:
        """The number of a set of paths, in use once more."""
        key = (self._med, tags, paths)
        number = self._numbers.get(key)
        if number is None:
            self._numbered = number = self._numbered + 1
            self._numbers[key] = number
            self._sets[number] = PathSet(number, self._med, paths, tags)
            self._uses[number] = 0
        self._uses[number] += 1
        return number

    def _drop(self, number: int | None) -> None:
        """One use less. What nobody uses is forgotten: a cluster's life has no end of sets."""
        if number is None:
            return
        self._uses[number] -= 1
        if not self._uses[number]:
            gone = self._sets.pop(number)
            del self._uses[number], self._numbers[gone.med, gone.tags, gone.paths]
            for group in self._groups.values():
                group.told.discard(number)
