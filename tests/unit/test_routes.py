"""What a node's kernel should hold, and the order in which it gets there."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from porter_ha.core.routes import EMPTY, Desired, KernelState, of_service
from porter_ha.model.objects import Service


def service(ingress, ours, **more):
    return msgspec.json.decode(
        msgspec.json.encode(
            {
                "metadata": {
                    "name": "web",
                    "annotations": {"lb.kubesphere.io/v1alpha1": "porter", "porter-ha.io/eips": ours},
                },
                "spec": {
                    "type": "LoadBalancer",
                    "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}],
                    **more,
                },
                "status": {"loadBalancer": {"ingress": [{"ip": a} for a in ingress]}},
            }
        ),
        type=Service,
    )


def test_an_eip_of_ours_is_local_and_its_ports_are_served():
    state = of_service(service(["10.0.0.1", "fd00::1"], "10.0.0.1,fd00::1"), classless=False)
    assert state.eips == {"10.0.0.1", "fd00::1"}
    assert ("fd00::1", "udp", 53) in state.served
    assert len(state.served) == 4


def test_an_address_that_another_controller_wrote_is_never_made_local():
    assert of_service(service(["10.79.0.21"], ""), classless=False) == EMPTY
    state = of_service(service(["10.0.0.1", "10.79.0.21"], "10.0.0.1"), classless=False)
    assert state.eips == {"10.0.0.1"}


def test_a_service_that_is_not_ours_any_more_is_not_local():
    assert of_service(service(["10.0.0.1"], "10.0.0.1", loadBalancerClass="else/where"), classless=False) == EMPTY


BOTH = (4, 6)


def test_steps_are_the_difference():
    desired = Desired()
    desired.set("a/1", KernelState(frozenset({"10.0.0.1", "10.0.0.2"}), frozenset({("10.0.0.1", "tcp", 80)})))
    whole = desired.whole(BOTH)
    assert desired.steps(whole.eips, whole.served, BOTH).empty
    desired.set("a/1", KernelState(frozenset({"10.0.0.2", "10.0.0.3"}), frozenset({("10.0.0.2", "tcp", 81)})))
    found = desired.steps(whole.eips, whole.served, BOTH)
    assert found.route_add == ("10.0.0.3",)
    assert found.route_del == ("10.0.0.1",)
    assert found.guard_add == KernelState(frozenset({"10.0.0.3"}), frozenset({("10.0.0.2", "tcp", 81)}))
    assert found.guard_del == KernelState(frozenset({"10.0.0.1"}), frozenset({("10.0.0.1", "tcp", 80)}))


def test_what_changes_nothing_is_no_news():
    """A Service that is created without its EIP must not hold up the moment in which it gets it."""
    desired, state = Desired(), KernelState(frozenset({"10.0.0.1"}))
    news = [desired.set("a/1", one) for one in (EMPTY, state, state, EMPTY, EMPTY)]
    assert news == [False, True, False, True, False]


def test_an_eip_that_two_services_show_stays_until_the_last_of_them_goes():
    """Not meant to be, but seen when a conflict is being healed."""
    desired, state = Desired(), KernelState(frozenset({"10.0.0.1"}), frozenset())
    desired.set("a/1", state)
    desired.set("a/2", state)
    held = desired.whole(BOTH).eips
    desired.set("a/1", EMPTY)
    assert desired.steps(held, set(), BOTH).empty
    desired.set("a/2", EMPTY)
    assert desired.steps(held, set(), BOTH).route_del == ("10.0.0.1",)


def test_a_family_that_the_node_has_no_address_in_is_left_out():
    desired = Desired()
    desired.set("a/1", KernelState(frozenset({"10.0.0.1", "fd00::1"}), frozenset({("fd00::1", "tcp", 80)})))
    assert desired.whole((4,)) == KernelState(frozenset({"10.0.0.1"}))
    desired.set("a/2", KernelState(frozenset({"fd00::2"})))
    assert desired.steps({"10.0.0.1"}, set(), (4,)).empty


states = st.builds(
    KernelState,
    st.frozensets(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"])),
    st.frozensets(st.sampled_from([("10.0.0.1", "tcp", 80), ("fd00::1", "udp", 53)])),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), states, st.booleans())))
def test_steps_add_up_to_the_whole(changes):
    desired, eips, served, last = Desired(), set(), set(), {}
    for key, state, look in changes:
        desired.set(key, state)
        last[key] = state
        if look:
            steps = desired.steps(eips, served, BOTH)
            eips = (eips | set(steps.route_add)) - set(steps.route_del)
            served = (served | steps.guard_add.served) - steps.guard_del.served
            assert eips == set().union(*(s.eips for s in last.values()))
            assert served == set().union(*(s.served for s in last.values()))
