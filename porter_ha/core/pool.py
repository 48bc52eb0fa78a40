"""One Eip as a pool: what it serves whom with, and the free side of it.

Invariants
  Cost of taking and releasing an address does not depend on the size of the pool, nor does memory: a pool remembers
  what is held and what was released, never what is free.

Released addresses come back oldest first, after those that were never used (unless many rest), and not before
QUARANTINE_S unless the pool is otherwise full: nodes may still hold rules of the previous holder.
"""

from collections import OrderedDict
from collections.abc import Mapping

from porter_ha.core import selectors
from porter_ha.core.next_hops import HOST_ROUTE, Route
from porter_ha.model.net import V4, AddressRange, is_boundary
from porter_ha.model.objects import LabelSelector
from porter_ha.model.plan import Claim
from porter_ha.model.value import Value

QUARANTINE_S = 30.0
MANY_REST = 4096


class PoolSettings(Value, frozen=True):
    """An Eip as the allocator sees it: already validated. All ranges are of one family, and none overlaps another.

    Without `auto` it serves only who asks for it or for one of its addresses; `descending`: highest address first;
    `share_across`: Services of different namespaces may share an address; `routes`: what routers are told of it.
    """

    name: str
    ranges: tuple[AddressRange, ...]
    disabled: bool = False
    default: bool = False
    skip_boundaries: bool = False
    priority: int = 0
    namespaces: tuple[str, ...] = ()
    namespace_selector: tuple[tuple[str, str], ...] = ()
    service_selector: LabelSelector | None = None
    auto: bool = True
    descending: bool = False
    share_across: bool = False
    routes: tuple[Route, ...] = (HOST_ROUTE,)

    @property
    def family(self) -> int:
        return self.ranges[0].family

    @property
    def bound(self) -> bool:
        """Whether only some namespaces or Services may use it."""
        return bool(self.namespaces or self.namespace_selector or self.service_selector)

    def covers(self, address: tuple[int, int]) -> bool:
        if address in self.ranges[0]:  # most have one, and all addresses are asked for: a generator would cost as much
            return True
        return any(address in covered for covered in self.ranges[1:])

    def serves(self, claim: Claim, labels: Mapping[str, str]) -> bool:
        """Whether the claim may have addresses of it; `labels` are its namespace's."""
        if not self.bound:
            return True
        if self.service_selector and not selectors.matches(self.service_selector, dict(claim.labels)):
            return False
        if claim.namespace in self.namespaces or not (self.namespaces or self.namespace_selector):
            return True
        selector = self.namespace_selector
        return bool(selector) and all(labels.get(key) == value for key, value in selector)

    def usable(self, number: int) -> bool:
        """Whether it may be handed out: .0 and .255 may not where they are to be skipped, unless named one by one."""
        if not self.skip_boundaries or not is_boundary(self.family, number):
            return True
        return any(covered.size == 1 and number == covered.first for covered in self.ranges)


class Pool:
    """The free side of an Eip: a cursor that only moves on, and the released addresses in order of release."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.used: dict[int, str] = {}
        self._ahead = [*settings.ranges] if settings.descending else [*reversed(settings.ranges)]  # the last is next
        self._step = -1 if settings.descending else 1
        self._fresh = self._begin()
        self._released: OrderedDict[int, float] = OrderedDict()

    def take(self, number: int, holder: str) -> None:
        self.used[number] = holder
        self._released.pop(number, None)

    def release(self, number: int, now: float) -> None:
        if self.used.pop(number, None) is not None:
            self._released[number] = now

    def inherit(self, other: "Pool") -> None:
        """Let rest what rests in `other`, unless it is held here."""
        for number, at in other._released.items():
            if number not in self.used:
                self._released[number] = at

    def next_free(self, now: float) -> int | None:
        """A free address, or None when the pool is full. Amortised constant time.

        One that was never used comes first, unless many rest: routers may keep stale paths of an address for longer
        than its quarantine (FRR 17372), and a withdrawal would bring them back.
        """
        rested = next(iter(self._released.items()), None)
        if rested is not None and len(self._released) > MANY_REST and now - rested[1] >= QUARANTINE_S:
            return rested[0]
        while self._ahead:
            covered, number = self._ahead[-1], self._fresh
            if not covered.first <= number <= covered.last:
                self._ahead.pop()
                self._fresh = self._begin()
            elif number in self.used or number in self._released or not self.settings.usable(number):
                self._fresh += self._step
            else:
                return number
        return rested[0] if rested is not None else None

    def _begin(self) -> int:
        """Where the next range begins."""
        if not self._ahead:
            return 0
        return self._ahead[-1].last if self.settings.descending else self._ahead[-1].first

    @property
    def capacity(self) -> int:
        """How many addresses it may hand out."""
        return sum(self._usable_of(covered) for covered in self.settings.ranges)

    def _usable_of(self, covered: AddressRange) -> int:
        if not self.settings.skip_boundaries or covered.size == 1 or covered.family != V4:
            return covered.size
        blocks = (covered.last >> 8) - (covered.first >> 8) + 1
        edges = 2 * blocks - (covered.first & 0xFF != 0) - (covered.last & 0xFF != 0xFF)
        return covered.size - edges
