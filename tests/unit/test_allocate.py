"""Choosing, keeping and releasing addresses."""

import pytest

from porter_ha.core.allocate import Allocator
from porter_ha.core.pool import MANY_REST, QUARANTINE_S, Pool
from porter_ha.model.net import V4, parse_address
from porter_ha.model.objects import LabelSelector
from porter_ha.model.plan import Refusal
from porter_ha.model.reasons import Reason
from tests.unit.builders import claim, pool


def allocator(*pools):
    made = Allocator()
    made.set_pools(pools or [pool()])
    return made


def assign(made, wanting, now=0.0, labels=None, broken=None):
    return made.assign(wanting, labels or {}, now, broken or {})


def refused(result, reason):
    assert isinstance(result, Refusal), result
    assert result.reason is reason
    return result.message


def test_addresses_are_given_in_order_and_each_once():
    made = allocator(pool(address="10.0.0.10-10.0.0.12"))
    got = [assign(made, claim(f"a/{i}")) for i in range(3)]
    assert got == [("10.0.0.10",), ("10.0.0.11",), ("10.0.0.12",)]
    message = refused(assign(made, claim("a/late")), Reason.POOL_EXHAUSTED)
    assert "pool (3 of 3)" in message


def test_an_eip_of_several_ranges_is_one_pool():
    made = allocator(pool(address="10.0.0.9, 10.0.0.4-10.0.0.5,10.0.1.0/31"))
    got = [assign(made, claim(f"a/{i}"))[0] for i in range(5)]
    assert got == ["10.0.0.9", "10.0.0.4", "10.0.0.5", "10.0.1.0", "10.0.1.1"]
    assert "pool (5 of 5)" in refused(assign(made, claim("a/late")), Reason.POOL_EXHAUSTED)
    made.release("a/1", now=0.0)
    assert assign(made, claim("a/again", wanted_addresses=("10.0.0.4",))) == ("10.0.0.4",)
    message = refused(assign(made, claim("a/odd", wanted_addresses=("10.0.0.6",))), Reason.ADDRESS_NOT_IN_POOL)
    assert "10.0.0.9, 10.0.0.4-10.0.0.5, 10.0.1.0-10.0.1.1" in message


def test_the_highest_address_goes_first_where_asked():
    made = allocator(pool(address="10.0.0.0/31,10.0.1.7", descending=True))
    assert [assign(made, claim(f"a/{i}"))[0] for i in range(3)] == ["10.0.1.7", "10.0.0.1", "10.0.0.0"]


def test_boundary_addresses_are_skipped_unless_named_one_by_one():
    made = allocator(pool(address="10.0.0.254-10.0.1.1,10.0.2.0", skip_boundaries=True))
    assert made.pools["pool"].capacity == 3
    assert [assign(made, claim(f"a/{i}"))[0] for i in range(3)] == ["10.0.0.254", "10.0.1.1", "10.0.2.0"]


def test_an_eip_that_does_not_assign_by_itself_serves_who_names_it():
    made = allocator(pool(auto=False))
    assert "pool has spec.autoAssign: false" in refused(assign(made, claim("a/1")), Reason.NO_POOL)
    assert assign(made, claim("a/1", wanted_pool="pool")) == ("10.0.0.0",)
    assert assign(made, claim("a/2", wanted_addresses=("10.0.0.7",))) == ("10.0.0.7",)
    made.set_pools([pool(auto=False), pool("open", "10.1.0.0/24")])
    assert assign(made, claim("a/3")) == ("10.1.0.0",)


def test_an_eip_bound_to_services_comes_first_and_serves_no_others():
    gold = LabelSelector(match_labels={"tier": "gold"})
    made = allocator(pool("gold", "10.9.0.0/24", service_selector=gold), pool())
    assert assign(made, claim("a/1", labels=(("tier", "gold"),))) == ("10.9.0.0",)
    assert assign(made, claim("a/2")) == ("10.0.0.0",)
    assert "serviceSelector" in refused(assign(made, claim("a/3", wanted_pool="gold")), Reason.NO_POOL)
    both = pool("gold", "10.9.0.0/24", service_selector=gold, namespaces=("b",))
    made.set_pools([both, pool()])
    assert assign(made, claim("b/1", labels=(("tier", "gold"),))) == ("10.9.0.1",), "both must hold"
    assert assign(made, claim("a/4", labels=(("tier", "gold"),))) == ("10.0.0.1",)
    assert assign(made, claim("a/1", held=("10.9.0.0",), recorded=True)) == ("10.9.0.0",), "who has it keeps it"


def test_a_service_keeps_its_address():
    made = allocator()
    first = assign(made, claim())
    assert assign(made, claim(held=first, recorded=True)) == first
    made.set_pools([])
    assert assign(made, claim(held=first, recorded=True)) == first, "a deleted pool moves nobody (I2)"


def test_a_disabled_pool_keeps_its_holders_and_takes_no_new_ones():
    made = allocator()
    first = assign(made, claim())
    made.set_pools([pool(disabled=True)])
    assert assign(made, claim(held=first)) == first
    assert "pool" in refused(assign(made, claim("a/new")), Reason.POOL_DISABLED)


def test_released_addresses_rest_and_come_back_oldest_first():
    made = allocator(pool(address="10.0.0.0/29"))
    for i in range(4):
        assign(made, claim(f"a/{i}"))
    made.release("a/2", now=1.0)
    made.release("a/0", now=2.0)
    fresh = [assign(made, claim(f"b/{i}"), now=2.0 + QUARANTINE_S) for i in range(4)]
    assert fresh == [(f"10.0.0.{i}",) for i in (4, 5, 6, 7)], "what was never used comes first"
    assert assign(made, claim("c/1"), now=2.0 + QUARANTINE_S) == ("10.0.0.2",)
    assert assign(made, claim("c/2"), now=2.0 + QUARANTINE_S) == ("10.0.0.0",)


def test_when_many_rest_the_oldest_comes_back_so_that_memory_is_bounded():
    made = allocator(pool(address="10.0.0.0/16"))
    for i in range(MANY_REST + 1):
        assign(made, claim(f"a/{i}"))
    for i in range(MANY_REST + 1):
        made.release(f"a/{i}", now=1.0)
    assert assign(made, claim("b/0"), now=2.0) == ("10.0.16.1",)
    assert assign(made, claim("b/1"), now=1.0 + QUARANTINE_S) == ("10.0.0.0",)


def test_a_full_pool_does_not_wait_for_the_quarantine():
    made = allocator(pool(address="10.0.0.1"))
    assign(made, claim("a/0"))
    made.release("a/0", now=5.0)
    assert assign(made, claim("a/1"), now=5.1) == ("10.0.0.1",)


def test_a_wanted_address_is_honoured_or_refused_with_what_would_do():
    made = allocator()
    assert assign(made, claim("a/0", wanted_addresses=("10.0.0.77",))) == ("10.0.0.77",)
    assert "a/0" in refused(assign(made, claim("a/1", wanted_addresses=("10.0.0.77",))), Reason.ADDRESS_IN_USE)
    message = refused(assign(made, claim("a/2", wanted_addresses=("192.0.2.1",))), Reason.ADDRESS_NOT_IN_POOL)
    assert "192.0.2.1" in message
    assert "pool (10.0.0.0-10.0.0.255)" in message


def test_asking_for_another_address_moves_the_service_and_holds_the_old_one_until_status_changed():
    made = allocator()
    old = assign(made, claim())
    moved = assign(made, claim(held=old, recorded=True, wanted_addresses=("10.0.0.9",)))
    assert moved == ("10.0.0.9",)
    assert made.holders(old[0]) == ("default/web",), "status still shows it"
    assign(made, claim(held=moved, recorded=True, wanted_addresses=("10.0.0.9",)))
    assert made.holders(old[0]) == ()


def test_a_named_pool():
    made = allocator(pool("one", "10.0.1.0/24", default=True), pool("two", "10.0.2.0/24"))
    assert assign(made, claim("a/0")) == ("10.0.1.0",)
    assert assign(made, claim("a/1", wanted_pool="two")) == ("10.0.2.0",)
    assert "there are: one, two" in refused(assign(made, claim("a/2", wanted_pool="three")), Reason.POOL_NOT_FOUND)
    message = refused(
        assign(made, claim("a/3", wanted_pool="bad"), broken={"bad": "spec.address: no"}), Reason.POOL_INVALID
    )
    assert "spec.address: no" in message


def test_pools_bound_to_a_namespace_come_first_then_the_default_then_any():
    bound = pool("bound", "10.0.1.0/30", namespaces=("shop",))
    default = pool("default", "10.0.2.0/30", default=True)
    other = pool("other", "10.0.3.0/30")
    made = allocator(bound, default, other)
    assert assign(made, claim("shop/a")) == ("10.0.1.0",)
    assert assign(made, claim("blog/a")) == ("10.0.2.0",)
    assert assign(allocator(bound, other), claim("blog/a")) == ("10.0.3.0",)
    assert "namespace blog" in refused(assign(allocator(bound), claim("blog/a")), Reason.NO_POOL)


def test_namespace_labels_and_priority():
    low = pool("low", "10.0.1.0/30", priority=1, namespace_selector=(("team", "a"),))
    high = pool("high", "10.0.2.0/30", priority=2, namespace_selector=(("team", "a"),))
    made = allocator(high, low)
    assert assign(made, claim("x/a"), labels={"team": "a"}) == ("10.0.1.0",)
    refused(assign(made, claim("x/b"), labels={"team": "b"}), Reason.NO_POOL)


def test_dual_stack_takes_one_of_each_family_and_each_family_has_its_own_default():
    made = allocator(pool("v4", "10.0.0.0/24", default=True), pool("v6", "fd00::/64"))
    assert assign(made, claim(families=(6, 4))) == ("fd00::", "10.0.0.0")


def test_prefer_dual_stack_takes_what_there_is_and_require_does_not():
    made = allocator(pool("v4", "10.0.0.0/24"))
    assert assign(made, claim("a/0", families=(4, 6), all_families=False)) == ("10.0.0.0",)
    refused(assign(made, claim("a/1", families=(4, 6))), Reason.FAMILY_UNAVAILABLE)


def test_nothing_is_held_by_a_service_that_was_refused():
    made = allocator(pool("v4", "10.0.0.0/24"))
    refused(assign(made, claim("a/1", families=(4, 6))), Reason.FAMILY_UNAVAILABLE)
    assert made.held("a/1") == ()
    assert not made.pools["v4"].used


@pytest.mark.parametrize(
    ("address", "capacity"), [("10.0.0.0/24", 254), ("10.0.0.0/23", 508), ("10.0.0.5-10.0.1.0", 250), ("10.0.0.0", 1)]
)
def test_boundaries_are_left_out_where_the_eip_says_so(address, capacity):
    settings = pool(address=address, skip_boundaries=True)
    made = Pool(settings)
    assert made.capacity == capacity
    got = set()
    while (number := made.next_free(0.0)) is not None:
        made.take(number, "x")
        got.add(number)
    assert len(got) == capacity
    assert capacity == 1 or not any(n & 255 in (0, 255) for n in got)


def test_cost_does_not_grow_with_the_pool_or_with_what_is_held():
    """Counted, not timed: how many numbers the pool looks at per assignment."""
    looked = 0

    class Counting(dict):
        def __contains__(self, key):
            nonlocal looked
            looked += 1
            return super().__contains__(key)

    made = Pool(pool(address="10.0.0.0/8"))
    made.used = Counting()
    for i in range(5000):
        made.take(made.next_free(0.0), f"a/{i}")
    assert looked <= 2 * 5000


def test_a_big_v6_pool_costs_nothing():
    made = allocator(pool(address="fd00::/64"))
    assert assign(made, claim(families=(6,))) == ("fd00::",)
    assert made.pools["pool"].capacity == 2**64


def test_holding_an_address_twice_is_a_defect():
    made = allocator()
    made.hold("a/0", ("10.0.0.1",))
    with pytest.raises(AssertionError, match="a/0"):
        made.hold("a/1", ("10.0.0.1",))
    assert made.holders("10.0.0.1") == ("a/0",)
    assert parse_address("10.0.0.1") == (V4, 0x0A000001)
