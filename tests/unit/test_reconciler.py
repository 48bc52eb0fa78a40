"""The decisions of a replica: who gets what, who takes over whose, and what routers hear."""

import pytest

from porter_ha.core.admit_eip import Pools
from porter_ha.core.planner import med_of
from porter_ha.core.reconciler import Reconciler
from porter_ha.model.effects import Assign, Explain, Relinquish
from porter_ha.model.plan import Refusal, Scope, Serving
from porter_ha.model.reasons import Reason
from tests.unit.builders import claim, pool, view

NODES = {f"n{i}": view(f"n{i}", i) for i in (1, 2, 3)}


def reconciler(leading=True, pools=None):
    made = Reconciler()
    made.set_scopes({"all": Scope()})
    made.change_nodes(NODES)
    made.set_pools(Pools(tuple(pools or [pool()]), {}), 0.0)
    if leading:
        made.begin_term(0.0)
    made.planner.drain()
    return made


def announced(made):
    """EIP -> how many paths, of everything said since the last look."""
    return {a: n for one in made.planner.drain() for a, n in one.changes.items()}


def recorded(wanting, addresses):
    return claim(wanting.key, **{**_fields(wanting), "held": addresses, "recorded": True})


def _fields(value):
    return {name: getattr(value, name) for name in value.__struct_fields__ if name != "key"}


def test_an_eip_is_announced_only_once_its_status_is_recorded():
    made = reconciler()
    wanting = claim()
    made.set_claim(wanting, 0.0)
    assert made.drain_effects() == [Assign("default/web", wanting.uid, ("10.0.0.0",), "pool")]
    assert announced(made) == {}
    made.set_claim(recorded(wanting, ("10.0.0.0",)), 1.0)
    assert made.drain_effects() == []
    assert len(made.planner.paths("all", "10.0.0.0")) == 3


def test_the_same_wish_is_told_once_and_again_when_asked():
    made = reconciler()
    made.set_claim(claim(), 0.0)
    made.drain_effects()
    made.set_claim(claim(serving=(Serving(4, ("n1",)),)), 1.0)  # an EndpointSlice came before the status did
    assert made.drain_effects() == []
    made.repeat(["default/web"], 2.0)
    assert [type(e) for e in made.drain_effects()] == [Assign]


def test_a_standby_announces_what_is_recorded_and_assigns_nothing():
    made = reconciler(leading=False)
    made.set_claim(claim("a/new"), 0.0)
    made.set_claim(claim("a/old", held=("10.0.0.5",), recorded=True), 0.0)
    assert made.drain_effects() == []
    assert list(announced(made)) == ["10.0.0.5"]


def test_a_new_leader_gives_out_nothing_that_status_records():
    made = reconciler(leading=False)
    made.set_claim(claim("a/old", held=("10.0.0.0",), recorded=True), 0.0)
    made.set_claim(claim("a/new"), 0.0)
    made.begin_term(1.0)
    assert made.drain_effects() == [Assign("a/new", "uid-a/new", ("10.0.0.1",), "pool", resync=True)]


def test_a_new_leader_lets_rest_what_was_freed_before_its_term():
    made = reconciler(leading=False)
    made.set_claim(claim("a/old", held=("10.0.0.0",), recorded=True), 0.0)
    made.drop_claim("a/old", 1.0)
    made.set_claim(claim("a/new"), 2.0)
    made.begin_term(2.0)
    assert made.drain_effects() == [Assign("a/new", "uid-a/new", ("10.0.0.1",), "pool", resync=True)]


def test_a_new_term_announces_everything_with_a_lower_med():
    made = reconciler(leading=False)
    made.set_claim(claim(held=("10.0.0.0",), recorded=True), 0.0)
    made.planner.drain()
    made.planner.set_med(med_of(7))
    (announce,) = made.planner.drain()
    assert announce.sets[0].med == med_of(7) < med_of(6, standing_in=True) < med_of(6)
    assert list(announce.changes) == ["10.0.0.0"]


def test_two_that_hold_one_address_are_healed_in_favour_of_the_older():
    made = reconciler(leading=False)
    made.set_claim(claim("a/young", created="2026-02-01T00:00:00Z", held=("10.0.0.0",), recorded=True), 0.0)
    made.set_claim(claim("b/old", created="2026-01-01T00:00:00Z", held=("10.0.0.0",), recorded=True), 0.0)
    made.begin_term(1.0)
    effects = made.drain_effects()
    assert Assign("a/young", "uid-a/young", ("10.0.0.1",), "pool", resync=True) in effects
    assert [e.refusal.reason for e in effects if isinstance(e, Explain)] == [Reason.ADDRESS_CONFLICT]
    assert made.allocator.holders("10.0.0.0") == ("b/old",)


@pytest.mark.parametrize("how", ["deleted", "gave it up", "opted out"])
def test_a_standby_that_hears_of_the_next_holder_first_announces_it_all_the_same(how):
    made = reconciler(leading=False)
    first, second = claim("a/first"), claim("a/second")
    made.set_claim(recorded(first, ("10.0.0.0",)), 0.0)
    made.set_claim(recorded(second, ("10.0.0.0",)), 1.0)  # its shard was faster
    if how == "deleted":
        made.drop_claim("a/first", 2.0)
    elif how == "gave it up":
        made.set_claim(recorded(first, ("10.0.0.1",)), 2.0)
    else:
        made.set_claim(claim("a/first", wants=False), 2.0)
    assert made.allocator.holders("10.0.0.0") == ("a/second",)
    assert len(made.planner.paths("all", "10.0.0.0")) == 3


def test_waiting_services_are_retried_when_an_address_or_a_pool_comes_free():
    made = reconciler(pools=[pool(address="10.0.0.1")])
    first = claim("a/1")
    made.set_claim(first, 0.0)
    made.set_claim(recorded(first, ("10.0.0.1",)), 0.0)
    made.set_claim(claim("a/2"), 0.0)
    made.set_claim(claim("a/3"), 0.0)
    reasons = [e.refusal.reason for e in made.drain_effects() if isinstance(e, Explain)]
    assert reasons == [Reason.POOL_EXHAUSTED] * 2
    made.drop_claim("a/1", 1.0)
    assert made.drain_effects() == [Assign("a/2", "uid-a/2", ("10.0.0.1",), "pool", resync=True)]
    made.set_pools(Pools((pool(address="10.0.0.1-10.0.0.2"),), {}), 2.0)
    assert Assign("a/3", "uid-a/3", ("10.0.0.2",), "pool", resync=True) in made.drain_effects()
    assert made.waiting == {}


def test_a_deleted_service_is_withdrawn_and_its_address_released():
    made = reconciler()
    made.set_claim(claim(held=("10.0.0.0",), recorded=True), 0.0)
    made.planner.drain()
    made.drop_claim("default/web", 1.0)
    assert announced(made) == {"10.0.0.0": None}
    assert made.allocator.holders("10.0.0.0") == ()


def test_a_service_that_opts_out_is_withdrawn_then_cleared_then_released():
    made = reconciler()
    made.set_claim(claim(held=("10.0.0.0",), recorded=True), 0.0)
    made.planner.drain()
    made.set_claim(claim(wants=False, held=("10.0.0.0",), recorded=True), 1.0)
    assert announced(made) == {"10.0.0.0": None}
    assert made.drain_effects() == [Relinquish("default/web", "uid-default/web", ("10.0.0.0",))]
    assert made.allocator.holders("10.0.0.0") == ("default/web",), "its status still shows it"
    made.drop_claim("default/web", 2.0)
    assert made.allocator.holders("10.0.0.0") == ()


def test_an_address_that_another_controller_wrote_is_taken_and_not_announced():
    made = reconciler()
    made.set_claim(claim("other/lb", wants=False, held=("10.0.0.0",)), 0.0)
    made.set_claim(claim("a/1"), 0.0)
    assert made.drain_effects() == [Assign("a/1", "uid-a/1", ("10.0.0.1",), "pool")]
    assert announced(made) == {}


def test_an_address_in_our_pools_that_openelb_wrote_is_adopted():
    made = reconciler()
    made.set_claim(claim(held=("10.0.0.99",)), 0.0)
    assert made.drain_effects() == [Assign("default/web", "uid-default/web", ("10.0.0.99",), "pool")]


def test_a_recreated_service_is_another_service():
    made = reconciler()
    made.set_claim(claim(held=("10.0.0.0",), recorded=True), 0.0)
    made.set_claim(claim(uid="second"), 1.0)
    assert made.drain_effects() == [Assign("default/web", "second", ("10.0.0.1",), "pool")]


def test_no_ready_endpoint_withdraws_with_a_reason_and_keeps_the_address():
    made = reconciler()
    up = claim(held=("10.0.0.0",), recorded=True)
    made.set_claim(up, 0.0)
    made.planner.drain()
    made.set_claim(claim(held=("10.0.0.0",), recorded=True, serving=(Serving(6),)), 1.0)
    assert announced(made) == {"10.0.0.0": None}
    assert made.why("default/web").reason is Reason.NO_ENDPOINTS
    assert made.allocator.holders("10.0.0.0") == ("default/web",)
    made.set_claim(up, 2.0)
    assert made.why("default/web") is None


def test_local_follows_endpoints_and_nodes():
    made = reconciler()
    local = {"held": ("10.0.0.0",), "recorded": True, "local": True}
    made.set_claim(claim(**local, serving=(Serving(4, ("n1", "n3")),)), 0.0)
    assert [p.next_hop for p in made.planner.paths("all", "10.0.0.0")] == _hops("n1", "n3")
    made.change_nodes({**NODES, "n3": view("n3", 3, refusal=Reason.NODE_NOT_READY)})
    assert [p.next_hop for p in made.planner.paths("all", "10.0.0.0")] == _hops("n1")
    made.set_claim(claim(**local, serving=(Serving(4, ("n3",)),)), 1.0)
    assert made.planner.paths("all", "10.0.0.0") == ()
    why = made.why("default/web")
    assert why.reason is Reason.NO_NODES
    assert "n3: NodeNotReady" in why.message


def _hops(*names):
    from porter_ha.core.next_hops import path_ids

    ids = path_ids(NODES)
    return [NODES[n].address(4) for n in sorted(names, key=ids.__getitem__)]


def test_a_namespace_that_gains_a_label_frees_a_waiting_service():
    made = reconciler(pools=[pool(namespace_selector=(("team", "a"),))])
    made.set_claim(claim(), 0.0)
    assert isinstance(made.waiting["default/web"], Refusal)
    made.set_namespace("default", {"team": "a"}, 1.0)
    assert made.waiting == {}


def test_a_deposed_leader_decides_nothing_and_withdraws_nothing():
    made = reconciler()
    made.set_claim(claim(held=("10.0.0.0",), recorded=True), 0.0)
    made.planner.drain()
    made.end_term(3.0)
    made.set_claim(claim("a/2"), 1.0)
    assert made.drain_effects() == []
    assert announced(made) == {}
    assert len(made.planner.paths("all", "10.0.0.0")) == 3


def rivalry(made, wanting, times, every=1.0, start=0.0):
    """Somebody puts an address of their own in the place of ours, each time that we have written it."""
    written = 0
    for turn in range(times):
        at = start + turn * every
        made.set_claim(recorded(wanting, ("10.0.0.0",)), at)
        made.set_claim(claim(wanting.key, held=("192.0.2.1",)), at + every / 2)
        written += sum(isinstance(effect, Assign) for effect in made.drain_effects())
    return written


def test_a_fight_over_a_service_ends_and_is_told_and_is_tried_again_later():
    made = reconciler()
    made.set_claim(claim(), 0.0)
    made.drain_effects()
    assert rivalry(made, claim(), 10) == 2, "not after the third loss"
    assert made.why("default/web").reason == Reason.CONTESTED
    assert "192.0.2.1" in made.why("default/web").message
    assert not made.review(200.0)
    assert made.review(400.0)
    assert [type(effect) for effect in made.drain_effects()] == [Assign]
    assert rivalry(made, claim(), 5, start=401.0) == 0, "once more was enough"
    made.set_claim(claim(wanted_addresses=("10.0.0.7",)), 420.0)
    assert [effect.addresses for effect in made.drain_effects()] == [("10.0.0.7",)], "its user asks anew"


def test_losses_far_apart_and_changes_of_the_user_are_no_fight():
    made = reconciler()
    made.set_claim(claim(), 0.0)
    made.drain_effects()
    assert rivalry(made, claim(), 10, every=61.0) == 10
    for turn in range(5):
        wanting = claim(wanted_addresses=(f"10.0.0.{turn + 1}",))
        made.set_claim(wanting, 700.0 + turn)
        assert [effect.addresses for effect in made.drain_effects()] == [wanting.wanted_addresses]
        made.set_claim(recorded(wanting, wanting.wanted_addresses), 700.5 + turn)


def moving(*wishes):
    """A leader whose Service has 10.0.0.0 and was told these wishes since, of which no write has come back."""
    made = reconciler()
    wanting = recorded(claim(), ("10.0.0.0",))
    made.set_claim(wanting, 0.0)
    for number, wish in enumerate(wishes):
        made.set_claim(wishing(wanting, wish), 1.0 + number)
    return made, wanting


def wishing(value, *addresses):
    return claim(value.key, **{**_fields(value), "wanted_addresses": tuple(filter(None, addresses))})


def told(made):
    return [(e.key, e.addresses, e.serial) for e in made.drain_effects() if isinstance(e, Assign)]


def test_a_wish_that_is_taken_back_is_overruled_and_its_address_is_free_only_then():
    """A write that has left cannot be called back. A property test found two Services with one address."""
    made, wanting = moving("10.0.0.1", "")
    assert told(made) == [(wanting.key, ("10.0.0.1",), 0), (wanting.key, ("10.0.0.0",), 1)]
    made.set_claim(claim("default/next", wanted_addresses=("10.0.0.1",)), 3.0)
    assert told(made) == []  # status may still come to show it
    made.set_claim(recorded(wanting, ("10.0.0.1",)), 4.0)  # as it does
    made.set_claim(wanting, 5.0)  # and then not any more
    assert told(made) == []
    made.confirmed(wanting.key, 1, 6.0)
    assert told(made) == [("default/next", ("10.0.0.1",), 0)]


def test_a_wish_that_is_taken_back_before_its_write_has_left_is_free_once_that_is_known():
    made, wanting = moving("10.0.0.1", "")
    made.set_claim(claim("default/next", wanted_addresses=("10.0.0.1",)), 3.0)
    made.drain_effects()
    made.confirmed(wanting.key, 1, 4.0)  # status never changed
    assert told(made) == [("default/next", ("10.0.0.1",), 0)]


def test_a_confirmation_of_what_was_overruled_since_frees_nothing():
    made, wanting = moving("10.0.0.1", "10.0.0.2", "10.0.0.1")
    assert [serial for _, _, serial in told(made)] == [0, 1, 2]
    made.set_claim(claim("default/next", wanted_addresses=("10.0.0.2",)), 4.0)
    made.set_claim(wishing(recorded(wanting, ("10.0.0.1",)), "10.0.0.1"), 5.0)  # by the first write, or by the last?
    made.confirmed(wanting.key, 1, 6.0)
    assert told(made) == []
    made.confirmed(wanting.key, 2, 7.0)
    assert told(made) == [("default/next", ("10.0.0.2",), 0)]


def test_an_address_that_may_still_be_written_is_not_free_when_the_service_opts_out():
    made, wanting = moving("10.0.0.1")
    made.set_claim(claim(wanting.key, **{**_fields(wanting), "wants": False}), 2.0)
    made.set_claim(claim("default/next", wanted_addresses=("10.0.0.1",)), 3.0)
    assert told(made) == [(wanting.key, ("10.0.0.1",), 0)]
    made.drop_claim(wanting.key, 4.0)
    assert told(made) == [("default/next", ("10.0.0.1",), 0)]


def test_what_a_later_refusal_replaced_is_told_again():
    made, _ = moving("10.0.0.1", "192.0.2.1", "10.0.0.1")
    assert [addresses for _, addresses, _ in told(made)] == [("10.0.0.1",), ("10.0.0.1",)]
