"""Addresses: which Service holds which, and which one comes next.

Invariants
  I1  an address has one holder, or several that share it on purpose: each with the same sharing key, ports of its own
      and, where endpoints' nodes matter, the same pods. `assign` hands out nothing that is held otherwise.
  I2  a holder keeps its addresses until it is released, whatever happens to the pools.
  Cost of assign and release does not depend on the size of the pools (pool.py).
"""

from collections.abc import Callable, Iterable, Mapping

from porter_ha.core.pool import Pool, PoolSettings
from porter_ha.model import names
from porter_ha.model.net import AddressRange, parse_address, to_text
from porter_ha.model.plan import Claim, Refusal, Sharing, namespace_of
from porter_ha.model.reasons import Reason


class Allocator:
    """The one authority over addresses; lives in the leader, and is rebuilt from Service status."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._holder_of: dict[tuple[int, int], str] = {}  # of those that share an address, one
        self._others: dict[tuple[int, int], dict[str, None]] = {}  # the others
        self._terms: dict[tuple[int, int], dict[str, Sharing]] = {}  # on which a holder shares what it holds
        self._shared: dict[str, dict[tuple[int, int], None]] = {}  # the addresses of a sharing key
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

    def holders(self, address: str) -> tuple[str, ...]:
        """Who holds it: nobody, one Service, or all that share it."""
        parsed = parse_address(address)
        first = self._holder_of.get(parsed)
        return () if first is None else (first, *self._others.get(parsed, ()))

    def rival(self, claim: Claim, address: str) -> str | None:
        """A holder of the address that cannot share it with the claim."""
        parsed = parse_address(address)
        if self._holder_of.get(parsed, claim.key) == claim.key and parsed not in self._others:
            return None
        terms = self._terms.get(parsed, {})
        pool = self._pool_at(parsed)
        across = pool is not None and pool.settings.share_across
        for other in self.holders(address):
            if other != claim.key and not _may_share(claim, other, terms.get(other), across):
                return other
        return None

    def settled(self, claim: Claim) -> bool:
        """Whether the claim holds exactly what its status shows, on the terms that it asks for."""
        if self._held.get(claim.key, ()) != claim.held:
            return False
        if not self._terms and claim.sharing is None:
            return True
        return all(self._terms.get(parse_address(a), {}).get(claim.key) == claim.sharing for a in claim.held)

    def hold(self, key: str, addresses: tuple[str, ...], sharing: Sharing | None = None) -> None:
        """Record that `key` holds these (from status, or a choice made here). They must be free, its own, or shared."""
        for address in addresses:
            self._record(key, address, parse_address(address), sharing)

    def _record(self, key: str, address: str, parsed: tuple[int, int], sharing: Sharing | None) -> None:
        first = self._holder_of.setdefault(parsed, key)
        if first != key:
            assert sharing is not None, f"{address} is held by {first}"
            self._others.setdefault(parsed, {})[key] = None
        if sharing is not None or parsed in self._terms:
            self._set_terms(parsed, key, sharing)
        if pool := self._pool_at(parsed):
            pool.take(parsed[1], first)
        held = self._held.get(key, ())
        if address not in held:
            self._held[key] = (*held, address)

    def _set_terms(self, parsed: tuple[int, int], key: str, sharing: Sharing | None) -> None:
        terms = self._terms.setdefault(parsed, {})
        old = terms.pop(key, None)
        if sharing is not None:
            terms[key] = sharing
            self._shared.setdefault(sharing.key, {})[parsed] = None
        if old is not None and not any(other.key == old.key for other in terms.values()):
            del self._shared[old.key][parsed]
            if not self._shared[old.key]:
                del self._shared[old.key]
        if not terms:
            del self._terms[parsed]

    def release(self, key: str, now: float, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Let go of what `key` holds, but for `keep`. Returns what it holds no more."""
        held = self._held.get(key, ())
        freed = tuple(a for a in held if a not in keep)
        if not freed:
            return ()
        for address in freed:
            self._let_go(key, parse_address(address), now)
        rest = tuple(a for a in held if a in keep)
        if rest:
            self._held[key] = rest
        else:
            del self._held[key]
        return freed

    def _let_go(self, key: str, parsed: tuple[int, int], now: float) -> None:
        if parsed in self._terms:
            self._set_terms(parsed, key, None)
        others = self._others.get(parsed, {})
        if key in others:
            del others[key]
        elif others:
            self._holder_of[parsed] = first = next(iter(others))
            del others[first]
            if pool := self._pool_at(parsed):
                pool.take(parsed[1], first)
        else:
            del self._holder_of[parsed]
            if pool := self._pool_at(parsed):
                pool.release(parsed[1], now)
        if not others:
            self._others.pop(parsed, None)

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
            self._record(claim.key, address, (family, number), claim.sharing)
        if claim.sharing is not None or self._terms:
            self.hold(claim.key, tuple(kept.values()), claim.sharing)  # on the terms that it asks for now
        return result

    def _may_keep(self, claim: Claim, address: str) -> bool:
        family, _ = parsed = parse_address(address)
        if family not in claim.families or self.rival(claim, address) is not None:
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
        if claim.sharing is not None and (joined := self._join(claim, claim.sharing, family, enabled)):
            return joined
        for pool in enabled:
            number = pool.next_free(now)
            if number is not None:
                return to_text(family, number), number
        sizes = ", ".join(f"{p.settings.name} ({len(p.used)} of {p.capacity})" for p in enabled)
        return Refusal(
            Reason.POOL_EXHAUSTED, f"no free IPv{family} address in {sizes}; free one or add an Eip with more addresses"
        )

    def _join(self, claim: Claim, sharing: Sharing, family: int, pools: list[Pool]) -> tuple[str, int] | None:
        """An address that others with the same key hold already, and that has room for the claim's ports."""
        for parsed in self._shared.get(sharing.key, ()):
            if parsed[0] == family and self._pool_at(parsed) in pools:
                address = to_text(*parsed)
                if self.rival(claim, address) is None:
                    return address, parsed[1]
        return None

    def _refuse_wanted(
        self, claim: Claim, wanted: str, labels: Mapping[str, str], broken: Mapping[str, str]
    ) -> Refusal | None:
        rival = self.rival(claim, wanted)
        if rival is not None:
            terms = self._terms.get(parse_address(wanted), {}).get(rival)
            hint = _why_not_shared(claim, rival, terms)
            return Refusal(Reason.ADDRESS_IN_USE, f"address {wanted} is held by Service {rival}; {hint}")
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


def _may_share(claim: Claim, other: str, terms: Sharing | None, across: bool) -> bool:
    """Whether the claim may hold what `other` holds on these terms; `across`: also in another namespace."""
    mine = claim.sharing
    if mine is None or terms is None or mine.key != terms.key or mine.backends != terms.backends:
        return False
    return (across or namespace_of(other) == claim.namespace) and set(mine.ports).isdisjoint(terms.ports)


def _why_not_shared(claim: Claim, other: str, terms: Sharing | None) -> str:
    """What would be right, for somebody whose address is taken."""
    mine = claim.sharing
    if mine is None or terms is None or mine.key != terms.key:
        return f"ask for another one, or share it: give both Services one annotation {names.SHARING_KEY_ANNOTATION}"
    if both := sorted(set(mine.ports) & set(terms.ports)):
        ports = ", ".join(f"{protocol} {port}" for protocol, port in both)
        return f"they share by key {mine.key!r}, but both serve {ports}; use another port or address"
    if mine.backends != terms.backends:
        return "to share it, let both have externalTrafficPolicy Cluster, or both Local and the same spec.selector"
    return "it is in another namespace, and the Eip's spec.sharing is not Cluster"


def _name_pools(pools: Iterable[Pool]) -> str:
    return "Eip " + ", ".join(p.settings.name for p in pools)


def _text(ranges: Iterable[AddressRange]) -> str:
    return ", ".join(map(str, ranges))
