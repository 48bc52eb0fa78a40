"""I1 and I2, whatever order Services, pools and wishes come in; and the leader's memory rebuilt from status alone."""

from collections import Counter
from itertools import combinations

from hypothesis import example, given
from hypothesis import strategies as st

from porter_ha.core.admit_eip import Pools
from porter_ha.core.reconciler import Reconciler
from porter_ha.model.effects import Assign, Relinquish
from porter_ha.model.plan import Scope, Sharing
from tests.unit.builders import claim, pool, view

KEYS = [f"ns/{i}" for i in range(6)]
WISHES = st.sampled_from([(), (), ("10.0.0.1",), ("10.0.0.3",), ("192.0.2.1",)])
POOLS = [pool("a", "10.0.0.0/30"), pool("b", "10.0.1.0-10.0.1.1"), pool("c", "10.0.0.0/30", disabled=True)]
TERMS = st.sampled_from(
    [
        None,
        Sharing("k", (("TCP", 80),)),
        Sharing("k", (("TCP", 443),)),
        Sharing("k", (("UDP", 53),)),
        Sharing("k", (), "x"),
    ]
)
steps = st.one_of(
    st.tuples(st.just("want"), st.tuples(st.sampled_from(KEYS), WISHES, TERMS)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS)),
    st.tuples(st.just("opt out"), st.sampled_from(KEYS)),
    st.tuples(st.just("pools"), st.lists(st.sampled_from(POOLS), unique_by=lambda p: p.ranges[0].first)),
    st.tuples(st.just("write"), st.integers(1, 10)),
    st.tuples(st.just("failover"), st.none()),
    st.tuples(st.just("time"), st.floats(0, 100)),
)


class World:
    """The API server's view: Services, their status, and the writes that are on their way."""

    def __init__(self):
        self.now, self.epoch = 0.0, 0
        self.wishes, self.status, self.recorded, self.wire = {}, {}, set(), []
        self.terms = {}  # on which a Service shares
        self.excused = set()  # whose terms changed since its status was written: it may have to move
        self.deletions, self.exists = Counter(), set()
        self.pools = Pools((POOLS[0],), {})
        self.failover()

    def claim(self, key):
        held = self.status.get(key, ())
        if key not in self.wishes:
            return claim(key, wants=False, **self.record(key)) if held else None
        return claim(key, wanted_addresses=self.wishes[key], **self.record(key))

    def record(self, key):
        held, recorded = self.status.get(key, ()), key in self.recorded
        return {"uid": self.uid(key), "held": held, "recorded": recorded, "sharing": self.terms.get(key)}

    def uid(self, key):
        """A Service that is created again is another one."""
        return f"uid-{key}-{self.deletions[key]}"

    def tell(self, key):
        made = self.claim(key)
        if made is None:
            if all(effect.key != key for effect in self.wire):  # a shard says so once no write is on its way
                self.reconciler.drop_claim(key, self.now)
        else:
            self.reconciler.set_claim(made, self.now)
        self.send()

    def send(self):
        """Of a Service one write has left, and what is told later replaces what waits behind it (kube/writer.py)."""
        for effect in self.reconciler.drain_effects():
            left = next((e for e in self.wire if e.key == effect.key), None)
            self.wire = [e for e in self.wire if e.key != effect.key or e is left] + [effect]

    def failover(self):
        """A new leader knows only what status records; what was on its way has arrived (the barrier)."""
        self.write(len(self.wire) if self.epoch else 0)
        self.wire = []
        self.epoch += 1
        self.excused |= {key for pair in self.rivals() for key in pair}  # statuses do not say who changed its terms
        self.reconciler = Reconciler()
        self.reconciler.set_scopes({"all": Scope()})
        self.reconciler.change_nodes({"n1": view("n1", 1)})
        self.reconciler.set_pools(self.pools, self.now)
        for key in sorted(self.wishes.keys() | self.status.keys()):
            if (made := self.claim(key)) is not None:
                self.reconciler.set_claim(made, self.now)
        self.reconciler.begin_term(self.now)
        self.send()

    def write(self, count):
        for _ in range(min(count, len(self.wire))):
            effect = self.wire.pop(0)
            if effect.uid == self.uid(effect.key) and effect.key in self.exists:  # else the API server refuses it
                if isinstance(effect, Assign):
                    self.status[effect.key] = effect.addresses
                    self.recorded.add(effect.key)
                    if all(other.key != effect.key for other in self.wire):
                        self.excused.discard(effect.key)
                elif isinstance(effect, Relinquish):
                    self.status.pop(effect.key, None)
                    self.recorded.discard(effect.key)
            self.check()
            self.tell(effect.key)
            if not isinstance(effect, Relinquish) and effect.serial:
                self.reconciler.confirmed(effect.key, effect.serial, self.now)
                self.send()

    def rivals(self):
        """Pairs of Services that have one address and should not share it."""
        owners = {}
        for key, addresses in self.status.items():
            for address in addresses:
                owners.setdefault(address, []).append(key)
        for keys in owners.values():
            for one, other in combinations(keys, 2):
                mine, theirs = self.terms.get(one), self.terms.get(other)
                alike = mine and theirs and (mine.key, mine.backends) == (theirs.key, theirs.backends)
                if not alike or not set(mine.ports).isdisjoint(theirs.ports):
                    yield one, other

    def check(self):
        assert [pair for pair in self.rivals() if self.excused.isdisjoint(pair)] == []


def want(number, wish=(), terms=None):
    return "want", (f"ns/{number}", wish, terms)


ONE, TCP80, TCP443 = ("10.0.0.1",), Sharing("k", (("TCP", 80),)), Sharing("k", (("TCP", 443),))


@given(st.lists(steps, max_size=60))
# Each was found by this test, most of them after 20,000 others.
@example([want(1), ("failover", None), want(1, ONE), want(1), want(0, ONE)])
@example([want(1, (), TCP80), want(1, ("192.0.2.1",)), ("write", 2), want(0, (), TCP443)])
@example([want(0, (), TCP80), want(1, (), TCP443), ("pools", []), want(0), ("failover", None)])
@example([want(0, ONE, TCP443), want(2, ONE), want(2, (), TCP80), want(2, ONE)])
@example([want(1), ("opt out", "ns/1"), ("write", 1), want(1)])
@example([want(4), want(4, ONE, Sharing("k", (), "x")), ("write", 1), want(0, (), Sharing("k", (), "x")), want(4)])
def test_no_address_is_ever_in_two_statuses_and_none_moves_unasked(sequence):
    world = World()
    for kind, value in sequence:
        before = {k: (world.wishes.get(k), a) for k, a in world.status.items() if k not in world.excused}
        if kind == "want":
            key, wish, terms = value
            if (world.terms.get(key), world.wishes.get(key)) != (terms, wish):
                world.excused.add(key)
            world.terms[key], world.wishes[key] = terms, wish
            world.exists.add(key)
            world.tell(key)
        elif kind == "delete":
            world.wishes.pop(value, None)
            world.status.pop(value, None)
            world.recorded.discard(value)
            world.deletions[value] += 1
            world.exists.discard(value)
            world.tell(value)
        elif kind == "opt out":
            world.wishes.pop(value, None)
            world.tell(value)
        elif kind == "pools":
            world.pools = Pools(tuple(value), {})
            world.reconciler.set_pools(world.pools, world.now)
            world.send()
        elif kind == "write":
            world.write(value)
        elif kind == "failover":
            world.failover()
        else:
            world.now += value
        world.check()
        for key, (wish, held) in before.items():
            asks_the_same = key in world.wishes and world.wishes[key] == wish and key not in world.excused
            if asks_the_same and (not wish or held[0] in wish):
                assert world.status[key] == held, f"{key} moved from {held} to {world.status[key]} without asking"
    while world.wire:
        world.write(len(world.wire))
    world.excused.clear()
    world.check()
    assert world.wishes.keys() <= world.status.keys() | world.reconciler.waiting.keys(), "forgotten"
    for key, addresses in world.status.items():
        for address in addresses:
            sharers = {other for other, held in world.status.items() if address in held}
            assert set(world.reconciler.allocator.holders(address)) == sharers, key
