"""I8: the incremental plan says what a full recomputation says, after any sequence of changes."""

from hypothesis import given
from hypothesis import strategies as st

from porter_ha.core.next_hops import MAX_NEXT_HOPS, Offer, Spread, choose_nodes, path_ids
from porter_ha.core.planner import Planner, compute, med_of
from porter_ha.model.objects import LabelSelector
from porter_ha.model.plan import Scope, Tags
from porter_ha.model.reasons import Reason
from tests.unit.builders import view

NAMES = [f"n{i}" for i in range(6)]
EIPS = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"]
SCOPES = {
    "all": Scope(),
    "racked": Scope(LabelSelector(match_labels={"rack": "a"})),
    "named": Scope(peer="router"),
}

nodes = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from([None, Reason.NODE_NOT_READY, Reason.NODE_DRAINING]), st.sampled_from(["a", "b"])),
)
local = st.lists(st.sampled_from(NAMES), unique=True).map(lambda found: (-1, tuple(sorted(found))))
OFFERS = [
    (Offer(),),
    (Offer(("router",), Tags((1,))), Offer(tags=Tags((2,)))),
    (Offer(("router",), Tags(large=((1, 2, 3),))),),
]
everywhere = st.integers(0, 127).map(lambda bucket: (bucket, ()))
spreads = st.one_of(st.none(), st.tuples(st.one_of(local, everywhere), st.sampled_from(OFFERS)))
changes = st.one_of(
    st.tuples(st.just("nodes"), nodes),
    st.tuples(st.just("spread"), st.tuples(st.sampled_from(EIPS), spreads)),
    st.tuples(st.just("epoch"), st.integers(0, 3)),
    st.tuples(st.just("scopes"), st.sets(st.sampled_from(sorted(SCOPES)))),
    st.tuples(st.just("resend"), st.sampled_from(sorted(SCOPES))),
    st.tuples(st.just("drain"), st.none()),
)


def views(found):
    return {
        name: view(name, NAMES.index(name) + 1, refusal=refusal, labels=(("rack", rack),))
        for name, (refusal, rack) in found.items()
    }


class Heard:
    """What a group's peers know, from Announces alone; and the planner's inputs, to compute the truth from."""

    def __init__(self):
        self.planner = Planner()
        self.scopes, self.nodes, self.spreads = {}, {}, {}
        self.tables, self.sets = {}, {}

    def change(self, kind, value):
        if kind == "nodes":
            self.nodes = views(value)
            self.planner.set_nodes(self.nodes)
        elif kind == "spread":
            address, spread = value
            made = None if spread is None else Spread(6 if ":" in address else 4, *spread[0], spread[1])
            self.spreads.pop(address, None)
            if made is not None:
                self.spreads[address] = made
            self.planner.spread(address, made)
        elif kind == "epoch":
            self.planner.set_med(med_of(value))
        elif kind == "scopes":
            self.scopes = {name: SCOPES[name] for name in value}
            for gone in self.tables.keys() - value:
                del self.tables[gone], self.sets[gone]
            self.planner.set_scopes(self.scopes)
        elif kind == "resend" and value in self.scopes:
            self.tables.pop(value, None)
            self.sets.pop(value, None)
            self.planner.resend(value)
        elif kind == "drain":
            self.drain()

    def drain(self):
        for announce in self.planner.drain():
            table = self.tables.setdefault(announce.group, {})
            sets = self.sets.setdefault(announce.group, {})
            sets.update({one.number: one for one in announce.sets})
            for address, number in announce.changes.items():
                if number is None:
                    table.pop(address, None)
                else:
                    table[address] = (sets[number].tags, sets[number].paths)


@given(st.lists(changes, max_size=40))
def test_what_peers_heard_is_what_a_full_computation_says(sequence):
    heard = Heard()
    for kind, value in sequence:
        heard.change(kind, value)
    heard.drain()
    for group, scope in heard.scopes.items():
        assert heard.tables.get(group, {}) == compute(heard.spreads, heard.nodes, scope)


@given(st.sets(st.text(min_size=1, max_size=12), max_size=200))
def test_path_ids_are_distinct_and_the_same_in_any_order(names):
    ids = path_ids(names)
    assert len(set(ids.values())) == len(ids)
    assert 0 not in ids.values()
    assert ids == path_ids(sorted(names, reverse=True))


@given(st.integers(0, 127), st.integers(65, 300))
def test_one_nodes_death_changes_one_next_hop_of_a_bucket_at_most(bucket, count):
    eligible = {f"n{i}": view(f"n{i}", i + 1) for i in range(count)}
    spread = Spread(4, bucket)
    before = {n.name for n in choose_nodes(spread, eligible)}
    assert len(before) == MAX_NEXT_HOPS
    dead = sorted(eligible)[bucket % count]
    after = {n.name for n in choose_nodes(spread, {k: v for k, v in eligible.items() if k != dead})}
    assert len(before - after) == (dead in before)


def test_buckets_share_the_load_over_many_nodes():
    eligible = {f"n{i}": view(f"n{i}", i + 1) for i in range(200)}
    carried = dict.fromkeys(eligible, 0)
    for bucket in range(128):
        for chosen in choose_nodes(Spread(4, bucket), eligible):
            carried[chosen.name] += 1
    mean = 128 * MAX_NEXT_HOPS / 200
    assert min(carried.values()) > mean / 3
    assert max(carried.values()) < mean * 3


MANY = [f"n{i}" for i in range(MAX_NEXT_HOPS + 12)]
EVERYWHERE = {f"10.0.0.{i}": Spread(4, i) for i in range(0, 128, 9)} | {"10.0.1.1": Spread(4, -1, ("n1", "n70"))}


@given(st.lists(st.tuples(st.sampled_from(MANY), st.sampled_from(["gone", "refused", "well"])), max_size=30))
def test_it_is_so_with_more_nodes_than_next_hops(sequence):
    """Nodes come and go one at a time: who takes the place of one that leaves, and whom a newcomer displaces."""
    planner, nodes = Planner(), {name: view(name, i + 1) for i, name in enumerate(MANY)}
    planner.set_nodes(nodes)
    planner.set_scopes(SCOPES)
    for address, spread in EVERYWHERE.items():
        planner.spread(address, spread)
    for name, state in sequence:
        refusal = Reason.NODE_NOT_READY if state == "refused" else None
        now = None if state == "gone" else view(name, MANY.index(name) + 1, refusal=refusal)
        nodes = {**{k: v for k, v in nodes.items() if k != name}, **({name: now} if now else {})}
        planner.change_nodes({name: now})
        whole = compute(EVERYWHERE, nodes, Scope())
        assert {a: told for a in EVERYWHERE if (told := planner.told("all", a))} == whole


def test_a_nodes_change_touches_only_its_own_eips(monkeypatch):
    """Counted: how many Spreads are resolved again, among 300 nodes, 1,000 Local Services and 128 buckets."""
    names = [f"n{i}" for i in range(300)]
    planner = Planner()
    planner.set_nodes({name: view(name, i + 1) for i, name in enumerate(names)})
    planner.set_scopes({"all": Scope()})
    spreads = {
        f"10.1.{i >> 8}.{i & 255}": Spread(4, -1, (names[i % 300], names[(i * 7 + 1) % 300])) for i in range(1000)
    }
    spreads |= {f"10.2.0.{i}": Spread(4, i) for i in range(128)}
    for address, spread in spreads.items():
        planner.spread(address, spread)
    planner.drain()
    carried = {a for a, spread in spreads.items() if any(p.next_hop == "10.1.0.42" for p in planner.paths("all", a))}
    resolved = []
    monkeypatch.setattr(
        "porter_ha.core.planner.choose_nodes", lambda s, nodes: resolved.append(s) or choose_nodes(s, nodes)
    )
    planner.change_nodes({"n41": view("n41", 42, refusal=Reason.NODE_SILENT)})
    (announce,) = planner.drain()
    assert set(announce.changes) == carried
    assert len(resolved) == len({spreads[a] for a in carried})
    planner.change_nodes({"n41": view("n41", 42)})
    (announce,) = planner.drain()
    assert set(announce.changes) == carried
    planner.change_nodes({"n41": view("n41", 42, labels=(("heartbeat", "2"),))})
    assert planner.drain() == []


def test_what_nobody_uses_is_forgotten():
    planner = Planner()
    planner.set_scopes(SCOPES)
    for i in range(200):
        planner.set_nodes({"a": view("a", 1), "b": view("b", 2 + i, labels=(("rack", "a"),))})
        planner.set_med(med_of(i // 10))
        planner.spread("10.0.0.1", Spread(4, i % 128))
        planner.spread("10.0.0.2", Spread(4, -1, ("b",)))
        planner.drain()
    assert planner.sets <= 2 * len(SCOPES)
    planner.spread("10.0.0.1", None)
    planner.spread("10.0.0.2", None)
    assert planner.sets == 0
