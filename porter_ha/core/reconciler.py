"""The decisions of a replica, put together: claims, pools, nodes and peers in; effects and announcements out.

The same code runs in the leader and in a standby. A standby mirrors what Service status records and keeps its plan
warm; a leader also assigns. What is announced always follows the *recorded* status, never a choice that has not
reached the API: so leader and standby announce alike, and a write that was lost or refused is never routed.

Must never: assign before `begin_term` (the allocator would not know what the last leader wrote), or forget a claim.
"""

from collections.abc import Iterable, Mapping

from porter_ha.core.admit_eip import Pools
from porter_ha.core.allocate import Allocator
from porter_ha.core.contest import LOSSES, Contests, lost, wishes
from porter_ha.core.next_hops import HOST_ROUTE, Route, Spread, merged, path_ids, paths_of, spread_of, why_none
from porter_ha.core.planner import Planner, eligible_nodes
from porter_ha.model.effects import Assign, Explain, Relinquish, ServiceEffect
from porter_ha.model.net import family_of, parse_address
from porter_ha.model.plan import Claim, NodeView, Refusal, Scope
from porter_ha.model.reasons import Reason


class Reconciler:
    def __init__(self) -> None:
        self.allocator = Allocator()
        self.planner = Planner()
        self.claims: dict[str, Claim] = {}
        self.waiting: dict[str, Refusal] = {}
        self.unannounced: dict[str, Refusal] = {}
        self.leading = False
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._pools = Pools((), {})
        self._effects: list[ServiceEffect] = []
        self._resync = False  # whether what is decided now was asked for by no change of the Service itself
        self._explained: dict[str, Refusal] = {}
        self._assigned: dict[str, tuple[str, ...]] = {}  # told to be written, and not seen in status yet
        self._pending: dict[str, tuple[str, ...]] = {}  # all that was told since status last showed what it should
        self._overruling: dict[str, int] = {}  # serial numbers of those that others may be on their way before
        self._serial = 0
        self._relinquished: set[str] = set()  # told to give up what status still shows
        self._conflicts: dict[str, Refusal] = {}
        self._contests = Contests()
        self._announced: dict[str, tuple[str, ...]] = {}
        self._announcers: dict[str, dict[str, Spread]] = {}  # of a route: the Services, and how each would spread it

    # -- leadership

    def begin_term(self, now: float) -> None:
        """Start assigning, older Services first.

        The allocator mirrors Service status all the time, so it is rebuilt only where statuses contradict each other,
        and only Services that lack something are looked at: this must not keep the loop from renewing the Lease
        (50,000 Services: 0.1 s).
        """
        self.leading = True
        if self._conflicts:
            self._rebuild()
        lacking = [key for key, claim in self.claims.items() if not self._satisfied(claim)]
        self._decide_again(sorted(lacking, key=self._seniority), now)

    def _satisfied(self, claim: Claim) -> bool:
        """Whether the Service has what it asks for, as far as can be said at a glance."""
        asks_nothing_else = not (claim.wanted_addresses or claim.wanted_pool or claim.refusal)
        complete = claim.recorded and tuple(map(family_of, claim.held)) == claim.families
        return claim.wants and asks_nothing_else and complete and self.allocator.settled(claim)

    def end_term(self, now: float) -> None:
        """Stop assigning. What is announced stays: the BGP door is not ours to close here (design 2.1)."""
        self.leading = False
        for key in self._assigned:  # chosen and never seen in status: another leader may choose otherwise
            claim = self.claims.get(key)
            self.allocator.release(key, now, keep=claim.held if claim is not None else ())
        self.waiting.clear()
        self._effects.clear()
        self._explained.clear()
        self._assigned.clear()
        self._pending.clear()
        self._overruling.clear()
        self._relinquished.clear()
        self._contests = Contests()

    def _seniority(self, key: str) -> tuple[str, str]:
        return (self.claims[key].created, key)

    def _rebuild(self) -> None:
        before, self.allocator = self.allocator, Allocator()
        self.allocator.set_pools(self._pools.accepted)
        self._conflicts.clear()
        for key in sorted(self.claims, key=self._seniority):
            self._adopt(self.claims[key])
        self.allocator.inherit(before)

    def _adopt(self, claim: Claim) -> None:
        """Hold what the claim's status records, but for what an older one holds already."""
        for address in claim.held:
            try:
                parse_address(address)
            except ValueError:
                continue  # another controller's odd ingress is no address of ours
            rival = self.allocator.rival(claim, address)
            if rival is not None:
                if claim.wants:
                    self._conflicts[claim.key] = Refusal(
                        Reason.ADDRESS_CONFLICT, f"address {address} is held by the older Service {rival}"
                    )
                continue
            if claim.recorded or self.allocator.pool_of(address) is not None:
                self.allocator.hold(claim.key, (address,), claim.sharing)

    def _release(self, key: str, now: float, keep: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Free what `key` holds, but for `keep`, for whoever records it too. News of two Services come by two shards: a
        standby may hear of an address' next holder first."""
        freed = self.allocator.release(key, now, keep)
        if freed and self._conflicts:
            for other in [k for k in self._conflicts if not set(freed).isdisjoint(self.claims[k].held)]:
                del self._conflicts[other]
                self._decide(self.claims[other], now)
        return freed

    # -- inputs

    def set_pools(self, pools: Pools, now: float) -> None:
        routes = {pool.name: pool.routes for pool in self._pools.accepted}
        self._pools = pools
        self.allocator.set_pools(pools.accepted)
        for claim in self.claims.values():
            if not self.allocator.held(claim.key):
                self._adopt(claim)
        if routes != {pool.name: pool.routes for pool in pools.accepted}:
            for claim in self.claims.values():
                self._advertise(claim)
        self._retry(now)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None, now: float) -> None:
        known = self._namespaces.get(name)
        if labels is None:
            self._namespaces.pop(name, None)
        elif known != labels:
            self._namespaces[name] = labels
            self._retry(now)

    def change_nodes(self, changes: Mapping[str, NodeView | None]) -> None:
        self.planner.change_nodes(changes)

    def set_scopes(self, scopes: Mapping[str, Scope]) -> None:
        self.planner.set_scopes(scopes)

    def set_claim(self, claim: Claim, now: float) -> None:
        old = self.claims.get(claim.key)
        if old is not None and old.uid != claim.uid:
            self.drop_claim(claim.key, now)
        self.claims[claim.key] = claim
        if self.leading and lost(old, claim) and claim.key not in self._relinquished:
            self._contests.note(claim.key, now)
        elif old is not None and wishes(old) != wishes(claim):
            self._contests.forget(claim.key)
        self._decide(claim, now)
        if old is not None and old.sharing != claim.sharing:
            self._retry(now)  # there may be room beside it now

    def drop_claim(self, key: str, now: float) -> None:
        """The Service is gone, or asks nothing and holds nothing."""
        claim = self.claims.pop(key, None)
        if claim is None:
            return
        self._withdraw(key, keep={})
        self.waiting.pop(key, None)
        self.unannounced.pop(key, None)
        self._explained.pop(key, None)
        self._assigned.pop(key, None)
        self._pending.pop(key, None)
        self._overruling.pop(key, None)
        self._relinquished.discard(key)
        self._conflicts.pop(key, None)
        self._contests.forget(key)
        if self._release(key, now):
            self._retry(now)

    def review(self, now: float) -> bool:
        """Time has passed: what was left alone to end a fight over a Service is tried again. Whether there was any."""
        over = [key for key in self._contests.over(now) if key in self.claims] if self.leading else []
        self._decide_again(over, now)
        return bool(over)

    def confirmed(self, key: str, serial: int, now: float) -> None:
        """The effect of this number was carried out, and so nothing that was told before it is on its way any more."""
        if self._overruling.get(key) != serial:
            return
        del self._overruling[key]
        claim = self.claims[key]
        if claim.held != self._assigned.get(key):  # it was no Assign, or somebody else was there since
            self._assigned.pop(key, None)
            self._pending.pop(key, None)
        if self._release(key, now, keep=claim.held + self._pending.get(key, ())):
            self._retry(now)
        self._decide(claim, now)

    # -- decisions

    def _decide(self, claim: Claim, now: float) -> None:
        if claim.key in self._relinquished and not claim.held:  # it is done, and what was told before is undone
            self._relinquished.discard(claim.key)
            self._pending.pop(claim.key, None)
            self._overruling.pop(claim.key, None)
        if self.leading and claim.wants:
            if not self.allocator.held(claim.key):
                self._adopt(claim)
            self._assign(claim, now)
        else:  # hold what status shows or will show, and nothing else
            self._adopt(claim)
            self._release(claim.key, now, keep=claim.held + self._pending.get(claim.key, ()))
            if self.leading and claim.recorded and claim.held:
                self._relinquish(claim)
            if self.leading and claim.refusal is not None:
                self._explain(claim, claim.refusal)
        self._advertise(claim)

    def _assign(self, claim: Claim, now: float) -> None:
        pending = self._pending.get(claim.key, ())
        if self._satisfied(claim):  # most news of a Service that has its EIP: there is nothing to choose
            result: tuple[str, ...] | Refusal = claim.held
        elif self._contests.contested(claim.key, now):
            shown = ", ".join(claim.held) or "nothing"
            contest = f"somebody else has put {shown} in the place of our address {LOSSES} times in a minute"
            self.waiting[claim.key] = Refusal(Reason.CONTESTED, contest)
            self._explain(claim, self.waiting[claim.key])
            self._assigned.pop(claim.key, None)
            return
        else:
            labels = self._namespaces.get(claim.namespace, {})
            broken = {name: refusal.message for name, refusal in self._pools.refused.items()}
            result = self.allocator.assign(claim, labels, now, broken, pending)
        if isinstance(result, Refusal):
            self.waiting[claim.key] = result
            if claim.recorded and self._rivalled(claim):
                self._evict(claim, result)
            else:
                self._explain(claim, result)
            if self._release(claim.key, now, keep=claim.held + pending):
                self._retry(now)
            left = tuple(a for a in self.allocator.held(claim.key) if self.allocator.rival(claim, a) is None)
            self.allocator.hold(claim.key, left, claim.sharing)  # on the terms that it has now, until it is told others
            return
        self.waiting.pop(claim.key, None)
        self._explained.pop(claim.key, None)
        if conflict := self._conflicts.pop(claim.key, None):
            self._explain(claim, conflict)
        if result == claim.held and claim.recorded and claim.key not in self._relinquished:
            self._shown(claim, now)
        elif self._assigned.get(claim.key) != result:
            self._tell(claim, result)

    def _shown(self, claim: Claim, now: float) -> None:
        """Status shows what it should. If something else was told, a write of that may be on its way: it is overruled,
        and until that is written nobody else gets any of those addresses (I1)."""
        key, pending = claim.key, self._pending.get(claim.key, ())
        if self._assigned.get(key, claim.held if set(pending) <= set(claim.held) else ()) != claim.held:
            self._tell(claim, claim.held)
            return
        if key in self._overruling:
            return
        self._assigned.pop(key, None)
        if self._pending.pop(key, ()) and self._release(key, now, keep=claim.held):
            self._retry(now)

    def _tell(self, claim: Claim, addresses: tuple[str, ...]) -> None:
        key, pending = claim.key, self._pending.get(claim.key, ())
        overrules = (addresses == claim.held and claim.recorded) or not set(pending) <= set(addresses)
        serial = self._number(key, overrules)
        self._assigned[key] = addresses
        self._pending[key] = tuple(dict.fromkeys(pending + addresses))
        self._relinquished.discard(key)
        pool = self.allocator.pool_of(addresses[0]) if addresses else None
        name = pool.settings.name if pool else ""
        self._effects.append(Assign(key, claim.uid, addresses, name, self._resync, serial))

    def _number(self, key: str, overrules: bool) -> int:
        """A serial number for what is told now, if it overrules what may be on its way."""
        self._overruling.pop(key, None)
        if not overrules:
            return 0
        self._serial = self._overruling[key] = self._serial + 1
        return self._serial

    def _rivalled(self, claim: Claim) -> bool:
        """Whether status shows an address that is another Service's, which cannot share it with this one."""
        for address in claim.held:
            try:
                if self.allocator.rival(claim, address) is not None:
                    return True
            except ValueError:
                continue  # it is recorded, but not by us
        return False

    def _evict(self, claim: Claim, refusal: Refusal) -> None:
        """It has an address together with others, and its new ports or pods do not go with theirs: they keep it."""
        if claim.key not in self._relinquished or self._explained.get(claim.key) != refusal:
            self._explained[claim.key] = refusal
            self._relinquish(claim, refusal)

    def _relinquish(self, claim: Claim, refusal: Refusal | None = None) -> None:
        self._relinquished.add(claim.key)
        self._assigned.pop(claim.key, None)  # what was told and has not left is not written any more
        self._effects.append(Relinquish(claim.key, claim.uid, claim.held, self._resync, refusal))

    def _explain(self, claim: Claim, refusal: Refusal) -> None:
        if self._explained.get(claim.key) != refusal:
            self._explained[claim.key] = refusal
            self._assigned.pop(claim.key, None)  # what was told and has not left is not written any more
            overrules = not set(self._pending.get(claim.key, ())) <= set(claim.held)
            serial = self._number(claim.key, overrules)
            self._effects.append(Explain(claim.key, claim.uid, refusal, self._resync, serial))

    def _retry(self, now: float) -> None:
        """Something that Services wait for may have changed."""
        self._decide_again(sorted(self.waiting, key=self._seniority), now)

    def _decide_again(self, keys: Iterable[str], now: float) -> None:
        self._resync = True
        for key in keys:
            self._decide(self.claims[key], now)
        self._resync = False

    # -- announcements

    def _advertise(self, claim: Claim) -> None:
        """Announce what is recorded, ours and wanted; withdraw what this Service announced before and does no more."""
        mine: dict[str, Spread] = {}
        self.unannounced.pop(claim.key, None)
        for address in claim.held:
            if not (claim.wants and claim.recorded and address in self.allocator.held(claim.key)):
                continue
            for route in self._routes(address):
                spread = spread_of(address, claim, route)
                if isinstance(spread, Refusal):
                    self.unannounced[claim.key] = spread
                else:
                    mine[route.over(address)] = spread
        self._withdraw(claim.key, keep=mine)
        for route_key, spread in mine.items():
            announcers = self._announcers.setdefault(route_key, {})
            announcers[claim.key] = spread
            self.planner.spread(route_key, merged(announcers.values()))
        if mine:
            self._announced[claim.key] = tuple(mine)

    def _routes(self, address: str) -> tuple[Route, ...]:
        """What routers are told of an EIP: what its pool says, or the address alone where no pool has it any more."""
        pool = self.allocator.pool_of(address)
        return pool.settings.routes if pool is not None else (HOST_ROUTE,)

    def route_keys(self, address: str) -> tuple[str, ...]:
        """The prefixes under which the planner knows an EIP."""
        return tuple(route.over(address) for route in self._routes(address))

    def _withdraw(self, key: str, keep: Mapping[str, Spread]) -> None:
        for route_key in self._announced.pop(key, ()):
            if route_key in keep:
                continue
            announcers = self._announcers[route_key]
            del announcers[key]
            if announcers:
                self.planner.spread(route_key, merged(announcers.values()))
            else:
                del self._announcers[route_key]
                self.planner.spread(route_key, None)

    # -- output

    def drain_effects(self) -> list[ServiceEffect]:
        """What must be written to Services since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def repeat(self, keys: Iterable[str], now: float) -> None:
        """Decide again for these: a shard lost what it was told."""
        for key in keys:
            self._explained.pop(key, None)
            self._assigned.pop(key, None)
            self._overruling.pop(key, None)
            if key in self.claims:
                self._decide(self.claims[key], now)

    def why(self, key: str) -> Refusal | None:
        """Why the Service has no EIP, or its EIP no next hop; None when both are well."""
        if key in self.waiting:
            return self.waiting[key]
        if key in self.unannounced:
            return self.unannounced[key]
        for route_key in self._announced.get(key, ()):
            spread = self.planner.spreads[route_key]
            if not paths_of(spread, eligible_nodes(self.planner.nodes, Scope()), path_ids(self.planner.nodes)):
                return why_none(spread, self.planner.nodes)
        return None
