"""What one node's kernel should hold for the EIPs: pure, from Services to desired state, and the steps between states.

An EIP needs a local route (so that packets stop here instead of looping back to the router) and the guard (so that
the route opens nothing of the node itself). The order is the guard before the route when adding, the route before
the guard when removing: an EIP is never local without being guarded.
"""

from collections.abc import Iterable

from porter_ha.core.eligibility import opted_in, recorded_addresses
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
    """How to get from one KernelState to another, in this order: guard_add, route_add, route_del, guard_del."""

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


def union(states: Iterable[KernelState]) -> KernelState:
    """What a node needs for all its Services together."""
    eips: set[str] = set()
    served: set[Served] = set()
    for state in states:
        eips |= state.eips
        served |= state.served
    return KernelState(frozenset(eips), frozenset(served))


def steps(actual: KernelState, desired: KernelState) -> Steps:
    """The difference, as small as it is."""
    added, removed = desired.eips - actual.eips, actual.eips - desired.eips
    return Steps(
        guard_add=KernelState(added, desired.served - actual.served),
        route_add=tuple(sorted(added)),
        route_del=tuple(sorted(removed)),
        guard_del=KernelState(removed, actual.served - desired.served),
    )
