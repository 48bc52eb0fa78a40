"""From EIPs and nodes to the Adj-RIB-Out of each group of peers, incrementally.

EIPs are filed under their Spread, and a Spread is resolved to paths once per group. So one Service's change costs
the same whatever the size of the cluster, and a node's change re-resolves the Spreads and touches only EIPs whose
paths became different. `compute` says the same from scratch; they must agree (I8, a property test).

Must never: drop a change (what `drain` returned is what peers must hear), or number two path sets alike.
"""

from collections.abc import Iterable, Mapping

from porter_ha.core import selectors
from porter_ha.core.next_hops import Spread, path_ids, paths_of
from porter_ha.model.effects import Announce
from porter_ha.model.objects import LabelSelector
from porter_ha.model.plan import NodeView, Path, PathSet

MED_BASE = 1_000_000_000
STANDBY_MED = MED_BASE  # worse than any leader's


def med_of(epoch: int, standing_in: bool = False) -> int:
    """The MED of a term. Each term's is lower than the one before, so routers prefer the newest leader (fence 2).

    `standing_in` is for a standby that announces for a dead leader before anybody could be elected: better than that
    leader's, worse than any later term's.
    """
    return max(0, MED_BASE - 2 * epoch - standing_in)


def eligible_nodes(nodes: Mapping[str, NodeView], scope: LabelSelector | None) -> dict[str, NodeView]:
    """The nodes that peers with this scope may see as next hops."""
    return {
        name: view
        for name, view in nodes.items()
        if view.refusal is None and selectors.matches(scope, dict(view.labels))
    }


def compute(
    spreads: Mapping[str, Spread], nodes: Mapping[str, NodeView], scope: LabelSelector | None
) -> dict[str, tuple[Path, ...]]:
    """The whole Adj-RIB-Out of one scope from scratch: EIP -> paths, without EIPs that have none."""
    eligible, ids = eligible_nodes(nodes, scope), path_ids(nodes)
    found = {address: paths_of(spread, eligible, ids) for address, spread in spreads.items()}
    return {address: paths for address, paths in found.items() if paths}


class Planner:
    def __init__(self) -> None:
        self._nodes: dict[str, NodeView] = {}
        self._ids: dict[str, int] = {}
        self._spreads: dict[str, Spread] = {}
        self._members: dict[Spread, dict[str, None]] = {}
        self._scopes: dict[str, LabelSelector | None] = {}
        self._resolved: dict[tuple[str, Spread], int | None] = {}
        self._numbers: dict[tuple[int, tuple[Path, ...]], int] = {}
        self._sets: dict[int, PathSet] = {}
        self._told: dict[str, set[int]] = {}
        self._dirty: dict[str, dict[str, None]] = {}
        self._med = STANDBY_MED

    # -- inputs

    def set_nodes(self, nodes: Mapping[str, NodeView]) -> None:
        if dict(nodes) == self._nodes:
            return
        self._nodes = dict(nodes)
        self._ids = path_ids(self._nodes)
        self._resolve_all()

    def set_scopes(self, scopes: Mapping[str, LabelSelector | None]) -> None:
        """The groups of peers. A new group, or one whose scope changed, hears everything again."""
        for group in [g for g in self._scopes if g not in scopes]:
            self._forget(group)
        for group, scope in scopes.items():
            if group not in self._scopes or self._scopes[group] != scope:
                self._scopes[group] = scope
                self.resend(group)
        self._resolve_all()

    def set_med(self, med: int) -> None:
        """A new term: every path is announced again with its MED."""
        if med != self._med:
            self._med = med
            self._resolve_all()

    def spread(self, address: str, spread: Spread | None) -> None:
        """File the EIP under `spread`; None withdraws it."""
        old = self._spreads.get(address)
        if old == spread:
            return
        if old is not None:
            members = self._members[old]
            del members[address], self._spreads[address]
            if not members:
                del self._members[old]
                for group in self._scopes:
                    self._resolved.pop((group, old), None)
        if spread is not None:
            self._spreads[address] = spread
            if spread not in self._members:
                self._members[spread] = {}
                self._resolve(spread, {g: eligible_nodes(self._nodes, s) for g, s in self._scopes.items()})
            self._members[spread][address] = None
        for dirty in self._dirty.values():
            dirty[address] = None

    def resend(self, group: str) -> None:
        """Forget what the group was told (its speaker started anew): it hears everything again."""
        self._told[group] = set()
        self._dirty[group] = dict.fromkeys(self._spreads)

    # -- output

    def drain(self) -> list[Announce]:
        """What each group must hear since the last call."""
        out = []
        for group, dirty in self._dirty.items():
            if not dirty:
                continue
            changes: dict[str, int | None] = {}
            for address in dirty:
                spread = self._spreads.get(address)
                changes[address] = None if spread is None else self._resolved.get((group, spread))
            told = self._told[group]
            new = {n for n in changes.values() if n is not None} - told
            told |= new
            out.append(Announce(group, tuple(self._sets[n] for n in sorted(new)), changes))
            self._dirty[group] = {}
        return out

    @property
    def nodes(self) -> Mapping[str, NodeView]:
        return self._nodes

    @property
    def spreads(self) -> Mapping[str, Spread]:
        return self._spreads

    def paths(self, group: str, address: str) -> tuple[Path, ...]:
        spread = self._spreads.get(address)
        number = None if spread is None else self._resolved.get((group, spread))
        return () if number is None else self._sets[number].paths

    # -- within

    def _forget(self, group: str) -> None:
        del self._scopes[group], self._told[group], self._dirty[group]
        for key in [k for k in self._resolved if k[0] == group]:
            del self._resolved[key]

    def _resolve_all(self) -> None:
        eligible = {group: eligible_nodes(self._nodes, scope) for group, scope in self._scopes.items()}
        for spread in self._members:
            self._resolve(spread, eligible)

    def _resolve(self, spread: Spread, eligible: Mapping[str, Mapping[str, NodeView]]) -> None:
        for group, nodes in eligible.items():
            paths = paths_of(spread, nodes, self._ids)
            number = self._intern(paths) if paths else None
            if self._resolved.get((group, spread), -1) != number:
                self._resolved[group, spread] = number
                self._touch(group, self._members[spread])

    def _touch(self, group: str, addresses: Iterable[str]) -> None:
        self._dirty[group].update(dict.fromkeys(addresses))

    def _intern(self, paths: tuple[Path, ...]) -> int:
        key = (self._med, paths)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers) + 1
            self._sets[number] = PathSet(number, self._med, paths)
        return number
