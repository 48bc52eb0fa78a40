"""Addresses: which Service holds which, and which one comes next.

Invariants
  I1  an address has at most one holder; `assign` never hands out one that is held.
  I2  a holder keeps its addresses until it is released, whatever happens to the pools.
  Cost of assign and release does not depend on the size of the pool, nor does memory: a pool remembers what is
  held and what was released, never what is free.

Released addresses come back oldest first, after those that were never used (unless many rest), and not before
QUARANTINE_S unless the pool is otherwise full: nodes may still hold rules of the previous holder.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from porter_ha.core import selectors
from porter_ha.model.net import V4, AddressRange, is_boundary, parse_address, to_text
from porter_ha.model.objects import LabelSelector
from porter_ha.model.plan import Claim, Refusal
from porter_ha.model.reasons import Reason
from porter_ha.model.value import Value

QUARANTINE_S = 30.0
MANY_REST = 4096


class PoolSettings(Value, frozen=True):
    """An Eip as the allocator sees it: already validated. All ranges are of one family, and none overlaps another.

    Without `auto` it serves only who asks for it or for one of its addresses; `descending`: highest address first.
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


class Allocator:
    """The one authority over addresses; lives in the leader, and is rebuilt from Service status."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._holder_of: dict[tuple[int, int], str] = {}
        self._held: dict[str, tuple[str, ...]] = {}
        self._open: dict[int, list[Pool]] = {}  # by family, the order in which all namespaces use the pools

    # -- pools

    @property
    def pools(self) -> Mapping[str, Pool]:
        return self._pools

    def set_pools(self, settings: Iterable[PoolSettings]) -> None:
        """Replace the pools. Holders keep their addresses even where no pool covers them any more (I2)."""
        wanted = {s.name: s for s in settings}
        for name in [n for n, pool in self._pools.items() if wanted.get(n) != pool.settings]:
            del self._pools[name]
        for name, setting in wanted.items():
            if name in self._pools:
                continue
            pool = self._pools[name] = Pool(setting)
            for (family, number), holder in self._holder_of.items():
                if setting.covers((family, number)):
                    pool.take(number, holder)
        self._open = {}
        if not any(pool.settings.bound for pool in self._pools.values()):
            automatic = [pool for pool in self._pools.values() if pool.settings.auto]
            for family in {pool.settings.family for pool in automatic}:
                self._open[family] = self._in_order([p for p in automatic if p.settings.family == family])

    def inherit(self, other: "Allocator") -> None:
        """Keep the quarantine of `other`: nodes may still hold old rules of what was freed before."""
        for name, pool in self._pools.items():
            if name in other._pools:
                pool.inherit(other._pools[name])

    def pool_of(self, address: str) -> Pool | None:
        return self._pool_at(parse_address(address))

    def _pool_at(self, parsed: tuple[int, int]) -> Pool | None:
        for pool in self._pools.values():
            if pool.settings.covers(parsed):
                return pool
        return None

    # -- holders

    def held(self, key: str) -> tuple[str, ...]:
        return self._held.get(key, ())

    def holder(self, address: str) -> str | None:
        return self._holder_of.get(parse_address(address))

    def hold(self, key: str, addresses: tuple[str, ...]) -> None:
        """Record that `key` holds these (from status, or a choice made here). They must be free or already its own."""
        for address in addresses:
            self._record(key, address, parse_address(address))

    def _record(self, key: str, address: str, parsed: tuple[int, int]) -> None:
        assert self._holder_of.get(parsed, key) == key, f"{address} is held by {self._holder_of[parsed]}"
        self._holder_of[parsed] = key
        if pool := self._pool_at(parsed):
            pool.take(parsed[1], key)
        held = self._held.get(key, ())
        if address not in held:
            self._held[key] = (*held, address)

    def release(self, key: str, now: float, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Free what `key` holds, but for `keep`. Returns what was freed."""
        held = self._held.get(key, ())
        freed = tuple(a for a in held if a not in keep)
        if not freed:
            return ()
        for address in freed:
            parsed = parse_address(address)
            del self._holder_of[parsed]
            if pool := self._pool_at(parsed):
                pool.release(parsed[1], now)
        rest = tuple(a for a in held if a in keep)
        if rest:
            self._held[key] = rest
        else:
            del self._held[key]
        return freed

    # -- choice

    def assign(
        self,
        claim: Claim,
        namespace_labels: Mapping[str, str],
        now: float,
        broken: Mapping[str, str],
        pending: tuple[str, ...] = (),
    ) -> tuple[str, ...] | Refusal:
        """The addresses the claim shall hold from now on, already recorded; or why it has to wait.

        What it holds and may keep is kept. `broken` maps names of refused Eips to why, for the message. `pending` are
        addresses that may be on their way into its status: nobody else gets them yet (I1).
        """
        if claim.refusal is not None:
            return claim.refusal
        kept = {parse_address(a)[0]: a for a in reversed(self.held(claim.key)) if self._may_keep(claim, a)}
        chosen: dict[int, tuple[str, int]] = {}
        for family in claim.families:
            if family in kept:
                continue
            got = self._choose(claim, family, namespace_labels, now, broken)
            if isinstance(got, Refusal):
                if claim.all_families or (family == claim.families[-1] and not chosen and not kept):
                    return got
                continue
            chosen[family] = got
        result = tuple(kept.get(f) or chosen[f][0] for f in claim.families if f in kept or f in chosen)
        # An address that is given up stays held until the status that still shows it is overwritten (I1).
        self.release(claim.key, now, keep=result + claim.held + pending)
        for family, (address, number) in chosen.items():
            self._record(claim.key, address, (family, number))
        return result

    def _may_keep(self, claim: Claim, address: str) -> bool:
        family, _ = parsed = parse_address(address)
        if family not in claim.families:
            return False
        wanted = [a for a in claim.wanted_addresses if parse_address(a)[0] == family]
        if wanted:
            return address in wanted
        named = self._pools.get(claim.wanted_pool)
        return named is None or named.settings.covers(parsed) or named.settings.family != family

    def _choose(
        self, claim: Claim, family: int, labels: Mapping[str, str], now: float, broken: Mapping[str, str]
    ) -> tuple[str, int] | Refusal:
        """An address of the family that may be given to the claim, as text and as number."""
        wanted = next((a for a in claim.wanted_addresses if parse_address(a)[0] == family), None)
        if wanted is not None:
            refusal = self._refuse_wanted(claim, wanted, labels, broken)
            return refusal or (wanted, parse_address(wanted)[1])
        fitting = (
            self._open[family]
            if family in self._open and not claim.wanted_pool
            else self._candidates(claim, family, labels, broken)
        )
        if isinstance(fitting, Refusal):
            return fitting
        enabled = [p for p in fitting if not p.settings.disabled]
        if not enabled:
            return Refusal(
                Reason.POOL_DISABLED, f"{_name_pools(fitting)} has spec.disable: true; enable it or name another Eip"
            )
        for pool in enabled:
            number = pool.next_free(now)
            if number is not None:
                return to_text(family, number), number
        sizes = ", ".join(f"{p.settings.name} ({len(p.used)} of {p.capacity})" for p in enabled)
        return Refusal(
            Reason.POOL_EXHAUSTED, f"no free IPv{family} address in {sizes}; free one or add an Eip with more addresses"
        )

    def _refuse_wanted(
        self, claim: Claim, wanted: str, labels: Mapping[str, str], broken: Mapping[str, str]
    ) -> Refusal | None:
        holder = self.holder(wanted)
        if holder is not None and holder != claim.key:
            return Refusal(Reason.ADDRESS_IN_USE, f"address {wanted} is held by Service {holder}; ask for another one")
        pool = self.pool_of(wanted)
        allowed = pool is not None and pool.settings.serves(claim, labels)
        if pool is None or not allowed or (claim.wanted_pool and pool.settings.name != claim.wanted_pool):
            usable = [p for p in self._pools.values() if p.settings.serves(claim, labels)]
            ranges = ", ".join(f"{p.settings.name} ({_text(p.settings.ranges)})" for p in usable) or "none yet"
            hint = "".join(f"; Eip {name} is refused: {why}" for name, why in broken.items())
            return Refusal(
                Reason.ADDRESS_NOT_IN_POOL,
                f"address {wanted} is in no Eip that Service {claim.key} may use; they are: {ranges}{hint}",
            )
        if pool.settings.disabled:
            return Refusal(
                Reason.POOL_DISABLED,
                f"address {wanted} is in Eip {pool.settings.name}, which has spec.disable: true; enable it",
            )
        if not pool.settings.usable(parse_address(wanted)[1]):
            return Refusal(
                Reason.ADDRESS_NOT_IN_POOL,
                f"address {wanted} ends in .0 or .255, and Eip {pool.settings.name} has spec.usingKnownIPs: false",
            )
        return None

    def _candidates(
        self, claim: Claim, family: int, labels: Mapping[str, str], broken: Mapping[str, str]
    ) -> list[Pool] | Refusal:
        """OpenELB's order: the named Eip, else those bound to the namespace or Service, else the default, else any.

        Each family has its own default. Within a step: enabled before disabled, then by priority and name.
        """
        serving = [p for p in self._pools.values() if p.settings.serves(claim, labels)]
        usable = [p for p in serving if p.settings.auto]
        fitting = [p for p in usable if p.settings.family == family]
        if claim.wanted_pool:
            named = self._named(claim, labels, broken)
            # The other family of a dual-stack Service comes from wherever it may: an Eip has one family only.
            if isinstance(named, Refusal) or named.settings.family == family or len(claim.families) == 1:
                return self._of_family([named], family) if isinstance(named, Pool) else named
        if fitting:
            return self._in_order(fitting)
        if usable:
            return self._of_family(usable, family)
        hint = "".join(f"; Eip {name} is refused: {why}" for name, why in broken.items())
        hint += f"; {_name_pools(serving)} has spec.autoAssign: false and must be named" if serving else ""
        return Refusal(
            Reason.NO_POOL,
            f"no Eip serves Service {claim.key} (namespace {claim.namespace}, and its labels); create one, or widen "
            f"the selectors of one{hint}",
        )

    @staticmethod
    def _in_order(fitting: list[Pool]) -> list[Pool]:
        tiers: tuple[Callable[[PoolSettings], bool], ...] = (
            lambda s: s.bound,
            lambda s: s.default,
            lambda s: not any(p.settings.default for p in fitting),
        )
        found = next(found for tier in tiers if (found := [p for p in fitting if tier(p.settings)]))
        return sorted(found, key=lambda p: (p.settings.disabled, p.settings.priority, p.settings.name))

    def _named(self, claim: Claim, labels: Mapping[str, str], broken: Mapping[str, str]) -> Pool | Refusal:
        if claim.wanted_pool in broken:
            return Refusal(Reason.POOL_INVALID, f"Eip {claim.wanted_pool} is refused: {broken[claim.wanted_pool]}")
        named = self._pools.get(claim.wanted_pool)
        if named is None:
            known = ", ".join(sorted(self._pools)) or "none yet"
            return Refusal(Reason.POOL_NOT_FOUND, f"there is no Eip {claim.wanted_pool!r}; there are: {known}")
        if not named.settings.serves(claim, labels):
            return Refusal(
                Reason.NO_POOL,
                f"Eip {claim.wanted_pool} does not serve Service {claim.key} (spec.namespaces, namespaceSelector or "
                "serviceSelector); name another",
            )
        return named

    def _of_family(self, pools: list[Pool], family: int) -> list[Pool] | Refusal:
        fitting = [p for p in pools if p.settings.family == family]
        if fitting:
            return fitting
        return Refusal(
            Reason.FAMILY_UNAVAILABLE,
            f"the Service needs IPv{family}, but {_name_pools(pools)} has none; add an Eip with IPv{family} addresses",
        )


def _name_pools(pools: Iterable[Pool]) -> str:
    return "Eip " + ", ".join(p.settings.name for p in pools)


def _text(ranges: Iterable[AddressRange]) -> str:
    return ", ".join(map(str, ranges))
