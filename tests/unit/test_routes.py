"""What a node's kernel should hold, and the order in which it gets there."""

import msgspec

from porter_ha.core.routes import EMPTY, KernelState, of_service, steps, union
from porter_ha.model.objects import Service
from porter_ha.netlink import guard


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


def test_steps_are_the_difference():
    old = KernelState(frozenset({"10.0.0.1", "10.0.0.2"}), frozenset({("10.0.0.1", "tcp", 80)}))
    new = KernelState(frozenset({"10.0.0.2", "10.0.0.3"}), frozenset({("10.0.0.2", "tcp", 81)}))
    found = steps(old, new)
    assert found.route_add == ("10.0.0.3",)
    assert found.route_del == ("10.0.0.1",)
    assert found.guard_add == KernelState(frozenset({"10.0.0.3"}), frozenset({("10.0.0.2", "tcp", 81)}))
    assert found.guard_del == KernelState(frozenset({"10.0.0.1"}), frozenset({("10.0.0.1", "tcp", 80)}))
    assert steps(new, new).empty
    assert union([old, new]).eips == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_a_guard_transaction_names_only_what_changes():
    add = KernelState(frozenset({"fd00::1"}), frozenset({("fd00::1", "tcp", 80)}))
    assert guard.change(add, EMPTY).splitlines() == [
        "add element inet porter-ha served6 { fd00::1 . tcp . 80 }",
        "add element inet porter-ha eip6 { fd00::1 }",
    ]
    assert guard.change(EMPTY, EMPTY) == ""
