"""I1 and I2, whatever order Services, pools and wishes come in; and the leader's memory rebuilt from status alone."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from porter_ha.core.admit import Pools
from porter_ha.core.reconciler import Reconciler
from porter_ha.model.effects import Assign, Relinquish
from tests.unit.builders import claim, pool, view

KEYS = [f"ns/{i}" for i in range(6)]
WISHES = st.sampled_from([(), (), ("10.0.0.1",), ("10.0.0.3",), ("192.0.2.1",)])
POOLS = [pool("a", "10.0.0.0/30"), pool("b", "10.0.1.0-10.0.1.1"), pool("c", "10.0.0.0/30", disabled=True)]
steps = st.one_of(
    st.tuples(st.just("want"), st.tuples(st.sampled_from(KEYS), WISHES)),
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
        self.deletions, self.exists = Counter(), set()
        self.pools = Pools((POOLS[0],), {})
        self.failover()

    def claim(self, key):
        held = self.status.get(key, ())
        if key not in self.wishes:
            return (
                claim(key, uid=self.uid(key), wants=False, held=held, recorded=key in self.recorded) if held else None
            )
        recorded = key in self.recorded
        return claim(key, uid=self.uid(key), wanted_addresses=self.wishes[key], held=held, recorded=recorded)

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
        self.wire += self.reconciler.drain_effects()

    def failover(self):
        """A new leader knows only what status records; what was on its way has arrived (the barrier)."""
        self.write(len(self.wire) if self.epoch else 0)
        self.wire = []
        self.epoch += 1
        self.reconciler = Reconciler()
        self.reconciler.set_scopes({"all": None})
        self.reconciler.change_nodes({"n1": view("n1", 1)})
        self.reconciler.set_pools(self.pools, self.now)
        for key in sorted(self.wishes.keys() | self.status.keys()):
            if (made := self.claim(key)) is not None:
                self.reconciler.set_claim(made, self.now)
        self.reconciler.begin_term(self.now)
        self.wire += self.reconciler.drain_effects()

    def write(self, count):
        for _ in range(min(count, len(self.wire))):
            effect = self.wire.pop(0)
            if effect.uid == self.uid(effect.key) and effect.key in self.exists:  # else the API server refuses it
                if isinstance(effect, Assign):
                    self.status[effect.key] = effect.addresses
                    self.recorded.add(effect.key)
                elif isinstance(effect, Relinquish) and effect.key not in self.wishes:  # else a newer wish replaced it
                    self.status.pop(effect.key, None)
                    self.recorded.discard(effect.key)
            self.check()
            self.tell(effect.key)

    def check(self):
        owners = {}
        for key, addresses in self.status.items():
            for address in addresses:
                assert owners.setdefault(address, key) == key, f"{address}: {owners[address]} and {key}"


@given(st.lists(steps, max_size=60))
def test_no_address_is_ever_in_two_statuses_and_none_moves_unasked(sequence):
    world = World()
    for kind, value in sequence:
        before = {k: (world.wishes.get(k), a) for k, a in world.status.items()}
        if kind == "want":
            key, wish = value
            world.wishes[key] = wish
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
            world.wire += world.reconciler.drain_effects()
        elif kind == "write":
            world.write(value)
        elif kind == "failover":
            world.failover()
        else:
            world.now += value
        world.check()
        for key, (wish, held) in before.items():
            if key in world.wishes and world.wishes[key] == wish and (not wish or held[0] in wish):
                assert world.status[key] == held, f"{key} moved from {held} to {world.status[key]} without asking"
    while world.wire:
        world.write(len(world.wire))
    for key, addresses in world.status.items():
        for address in addresses:
            assert world.reconciler.allocator.holder(address) == key
