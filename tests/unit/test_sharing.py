"""Services that share an address, and prefixes that many share: who may, who is told what, and what routers hear."""

import pytest

from porter_ha.core.admit_eip import Pools
from porter_ha.core.eligibility import claim_of
from porter_ha.core.next_hops import Offer, Route
from porter_ha.core.reconciler import Reconciler
from porter_ha.model.effects import Assign, Explain, Relinquish
from porter_ha.model.objects import ObjectMeta, Service, ServicePort, ServiceSpec
from porter_ha.model.plan import Scope, Serving, Sharing, Tags
from porter_ha.model.reasons import Reason
from tests.unit.builders import claim, pool, view

HTTP, HTTPS, DNS = (("TCP", 80),), (("TCP", 443),), (("UDP", 53),)


def leader(*pools):
    made = Reconciler()
    made.set_scopes({"all": Scope(), "router": Scope(peer="router")})
    made.change_nodes({name: view(name, i + 1) for i, name in enumerate(("n1", "n2", "n3"))})
    made.set_pools(Pools(tuple(pools) or (pool(),), {}), 0.0)
    made.begin_term(0.0)
    return made


def sharing(ports=HTTP, key="k", backends=""):
    return Sharing(key, ports, backends)


def wrote(made, key, **more):
    """The Service's claim as it is once what was decided is in its status."""
    (effect,) = [e for e in made.drain_effects() if e.key == key]
    assert isinstance(effect, Assign), effect
    made.set_claim(claim(key, held=effect.addresses, recorded=True, **more), 0.0)
    return effect.addresses


def has(made, key, **more):
    made.set_claim(claim(key, **more), 0.0)
    return wrote(made, key, **more)


def service(**more):
    spec = ServiceSpec(type="LoadBalancer", ports=[ServicePort(443), ServicePort(53, "UDP")], **more)
    notes = {"lb.kubesphere.io/v1alpha1": "porter"}
    return Service(ObjectMeta(name="web", namespace="a", annotations=notes), spec)


@pytest.mark.parametrize("name", ["porter-ha.io/sharing-key", "metallb.io/allow-shared-ip"])
def test_the_terms_are_read_from_the_service(name):
    made = service(external_traffic_policy="Local", selector={"app": "x"})
    made.metadata.annotations[name] = "k"
    found = claim_of(made, (), classless=False).sharing
    assert found == Sharing("k", (("TCP", 443), ("UDP", 53)), "a:app=x")


def test_one_key_and_ports_of_their_own_share_the_first_address():
    made = leader()
    first = has(made, "a/one", sharing=sharing(HTTP))
    assert has(made, "a/two", sharing=sharing(HTTPS)) == first
    assert has(made, "a/three", sharing=sharing(DNS)) == first
    assert has(made, "a/alone") != first


@pytest.mark.parametrize(
    ("key", "terms"),
    [
        ("a/two", None),
        ("a/two", sharing(HTTPS, key="other")),
        ("a/two", sharing(HTTP)),
        ("a/two", sharing(HTTPS, backends="a:app=x")),
        ("b/two", sharing(HTTPS)),
    ],
    ids=["no key", "another key", "the same port", "other pods of a Local Service", "another namespace"],
)
def test_who_may_not_share_gets_another_address_or_is_told_why_not(key, terms):
    made = leader()
    (first,) = has(made, "a/one", sharing=sharing(HTTP))
    assert has(made, key, sharing=terms) != (first,)
    made.set_claim(claim("a/wants", sharing=None, wanted_addresses=(first,)), 0.0)
    (effect,) = made.drain_effects()
    assert isinstance(effect, Explain)
    assert effect.refusal.reason is Reason.ADDRESS_IN_USE
    assert "porter-ha.io/sharing-key" in effect.refusal.message


def test_namespaces_share_where_the_eip_lets_them():
    made = leader(pool(share_across=True))
    assert has(made, "a/one", sharing=sharing(HTTP)) == has(made, "b/two", sharing=sharing(HTTPS))


def test_who_changes_its_ports_into_anothers_moves_and_the_other_stays():
    made = leader()
    first = has(made, "a/one", sharing=sharing(HTTP))
    assert has(made, "a/two", sharing=sharing(HTTPS)) == first
    made.set_claim(claim("a/one", held=first, recorded=True, sharing=sharing(HTTPS)), 0.0)
    made.set_claim(claim("a/two", held=first, recorded=True, sharing=sharing(HTTPS), labels=(("new", "s"),)), 0.0)
    assert [e.key for e in made.drain_effects()] == ["a/one"], "the other one asked for nothing"


def test_who_insists_on_an_address_that_it_may_share_no_more_loses_it_and_waits():
    made = leader()
    one = {"wanted_addresses": ("10.0.0.9",), "sharing": sharing(HTTP)}
    two = {"wanted_addresses": ("10.0.0.9",), "sharing": sharing(HTTPS)}
    has(made, "a/one", **one)
    has(made, "a/two", **two)
    collides = {**two, "sharing": sharing(HTTP)}
    made.set_claim(claim("a/two", held=("10.0.0.9",), recorded=True, **collides), 0.0)
    (effect,) = made.drain_effects()
    assert isinstance(effect, Relinquish)
    assert effect.refusal.reason is Reason.ADDRESS_IN_USE
    assert "TCP 80" in effect.refusal.message
    made.set_claim(claim("a/two", **collides), 0.0)
    assert made.drain_effects() == []
    assert made.allocator.holders("10.0.0.9") == ("a/one",)
    made.drop_claim("a/one", 0.0)
    assert wrote(made, "a/two", **collides) == ("10.0.0.9",), "it is free again"


def test_a_shared_address_is_announced_while_anybody_serves_it():
    made = leader()
    (address,) = has(made, "a/one", sharing=sharing(HTTP))
    has(made, "a/two", sharing=sharing(HTTPS))
    paths = made.planner.paths("all", address)
    assert len(paths) == 3
    made.set_claim(claim("a/one", held=(address,), recorded=True, sharing=sharing(HTTP), serving=()), 0.0)
    assert made.planner.paths("all", address) == paths
    made.drop_claim("a/one", 0.0)
    assert made.planner.paths("all", address) == paths
    made.drop_claim("a/two", 0.0)
    assert made.planner.paths("all", address) == ()
    assert made.allocator.holders(address) == ()


def test_a_new_leader_finds_the_sharers_as_status_shows_them():
    made = Reconciler()
    made.set_pools(Pools((pool(),), {}), 0.0)
    for key, ports in (("a/one", HTTP), ("a/two", HTTPS)):
        made.set_claim(claim(key, held=("10.0.0.0",), recorded=True, sharing=sharing(ports)), 0.0)
    made.begin_term(0.0)
    assert made.drain_effects() == []
    assert set(made.allocator.holders("10.0.0.0")) == {"a/one", "a/two"}


def test_what_is_no_address_in_a_status_hurts_nobody():
    """Found by fuzzing: a refused Service whose status claims to hold something that cannot be shared with anybody."""
    made = leader()
    odd = claim("a/odd", held=("0",), recorded=True, wanted_pool="nowhere", sharing=sharing())
    made.set_claim(odd, 0.0)
    (effect,) = made.drain_effects()
    assert isinstance(effect, Explain)
    assert has(made, "a/good") == ("10.0.0.0",)


# --- what routers are told


def test_a_prefix_is_announced_while_any_address_in_it_is():
    told = (Route(24, (Offer(tags=Tags((1,))),)), Route(0, (Offer(("router",)),)))
    made = leader(pool(routes=told))
    local = {"local": True, "serving": (Serving(4, ("n1",)),)}
    (one,), (two,) = has(made, "a/one", **local), has(made, "a/two", local=True, serving=(Serving(4, ("n2",)),))
    tags, paths = made.planner.told("all", "10.0.0.0/24")
    assert (tags, len(paths)) == (Tags((1,)), 2), "on every node that serves one of them"
    assert made.planner.told("all", one) is None, "the addresses themselves are for one router only"
    assert made.planner.told("router", one)[0] == Tags()
    assert [path.next_hop for path in made.planner.paths("router", one)] == ["10.1.0.1"]
    made.drop_claim("a/one", 0.0)
    assert len(made.planner.paths("all", "10.0.0.0/24")) == 1
    made.drop_claim("a/two", 0.0)
    assert made.planner.spreads == {}
    assert two


def test_an_edited_advertisement_reaches_routers_and_moves_nobody():
    made = leader(pool())
    (address,) = has(made, "a/one")
    made.planner.drain()
    made.set_pools(Pools((pool(routes=(Route(0, (Offer(tags=Tags((7,))),)),)),), {}), 0.0)
    assert made.planner.told("all", address)[0] == Tags((7,))
    assert made.drain_effects() == []
    made.set_pools(Pools((pool(routes=(Route(25),)),), {}), 0.0)
    assert set(made.planner.spreads) == {"10.0.0.0/25"}
