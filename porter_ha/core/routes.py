"""What one node's kernel should hold for the EIPs: pure, from Services to desired state, and the steps between states.

An EIP needs a local route (so that packets stop here instead of looping back to the router) and the guard (so that
the route opens nothing of the node itself). The order is the guard before the route when adding, the route before
the guard when removing: an EIP is never local without being guarded.
"""

from collections.abc import Container, Set
from typing import TypeVar

from porter_ha.core.eligibility import opted_in, recorded_addresses
from porter_ha.model.net import family_of
from porter_ha.model.objects import Service
from porter_ha.model.value import Value

Served = tuple[str, str, int]
PROTOCOLS = ("tcp", "udp", "sctp")


class KernelState(Value, frozen=True):
    """The EIPs that are local here, and the (EIP, protocol, port) that kube-proxy serves for them."""

    eips: frozenset[str] = frozenset()
    served: frozenset[Served] = frozenset()


EMPTY = KernelState()


class Steps(Value, frozen=True):
    """From what a kernel holds to what it should hold, in this order: guard_add, route_add, route_del, guard_del."""

    guard_add: KernelState
    route_add: tuple[str, ...]
    route_del: tuple[str, ...]
    guard_del: KernelState

    @property
    def empty(self) -> bool:
        return self.guard_add == EMPTY and self.guard_del == EMPTY and not self.route_add and not self.route_del


def of_service(service: Service, classless: bool) -> KernelState:
    """What one Service needs on every node. Only addresses that Porter HA itself assigned count (I7)."""
    if not opted_in(service, classless):
        return EMPTY
    ours = recorded_addresses(service)
    eips = [address for address in service.addresses if address in ours]
    ports = [(p.protocol.lower(), p.port) for p in service.spec.ports or () if p.protocol.lower() in PROTOCOLS]
    return KernelState(frozenset(eips), frozenset((e, proto, port) for e in eips for proto, port in ports))


class Desired:
    """What a node needs for all its Services together, kept change by change: one change costs what it changes."""

    def __init__(self) -> None:
        self._states: dict[str, KernelState] = {}
        self._eips: dict[str, int] = {}  # how many Services want it
        self._served: dict[Served, int] = {}
        self._touched: tuple[set[str], set[Served]] = (set(), set())

    def set(self, key: str, state: KernelState) -> bool:
        """What the Service needs now; EMPTY when it needs nothing any more. Returns whether that is news."""
        old = self._states.pop(key, EMPTY)
        if state != EMPTY:
            self._states[key] = state
        if old == state:
            return False
        _count(self._eips, old.eips, state.eips, self._touched[0])
        _count(self._served, old.served, state.served, self._touched[1])
        return True

    def whole(self, families: Container[int]) -> KernelState:
        """Everything, of these address families; nothing is left to be told as a change."""
        self._touched = (set(), set())
        return KernelState(
            frozenset(eip for eip in self._eips if family_of(eip) in families),
            frozenset(one for one in self._served if family_of(one[0]) in families),
        )

    def steps(self, eips: Set[str], served: Set[Served], families: Container[int]) -> Steps:
        """From a kernel that holds `eips` and `served` to what is needed, of what was touched since the last call."""
        (touched_eips, touched_served), self._touched = self._touched, (set(), set())
        wanted = {eip for eip in touched_eips if eip in self._eips and family_of(eip) in families}
        let = {one for one in touched_served if one in self._served and family_of(one[0]) in families}
        added = {eip for eip in wanted if eip not in eips}  # a set less a view of keys would look at all of them
        removed = {eip for eip in touched_eips - wanted if eip in eips}
        return Steps(
            guard_add=KernelState(frozenset(added), frozenset(let - served)),
            route_add=tuple(sorted(added)),
            route_del=tuple(sorted(removed)),
            guard_del=KernelState(frozenset(removed), frozenset((touched_served - let) & served)),
        )


T = TypeVar("T")


def _count(table: dict[T, int], before: Set[T], after: Set[T], touched: set[T]) -> None:
    for one in before - after:
        table[one] -= 1
        if not table[one]:
            del table[one]
        touched.add(one)
    for one in after - before:
        table[one] = table.get(one, 0) + 1
        touched.add(one)
