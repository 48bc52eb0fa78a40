"""Taking over from OpenELB: its addresses stay, and what it leaves in objects goes."""

import json

import pytest

from porter_ha.core import contest
from porter_ha.model.names import CONDITION_ASSIGNED
from tests.lab import cluster, controlplane, nodes
from tests.lab.cluster import addresses, service, settled, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.shell import run, until
from tests.lab.topology import NODES

pytestmark = pytest.mark.usefixtures("clean")
LB, IPAM = "finalizer.lb.kubesphere.io/v1alpha1", "finalizer.ipam.kubesphere.io/v1alpha1"


def with_finalizers(document, *finalizers):
    return {**document, "metadata": {**document["metadata"], "finalizers": list(finalizers)}}


def finalizers(kind, name):
    return get(kind, name)["metadata"].get("finalizers", [])


def test_an_address_that_openelb_gave_stays_and_is_announced():
    """The Service as OpenELB left it: opted in, with an address of our pool in its status that is not recorded."""
    settled()
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "10.200.0.77"}]}}}
    apply(with_finalizers(service("web", annotations={"lb.kubesphere.io/v1alpha1": ""}), LB))
    kubectl("patch", "service", "web", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    kubectl("annotate", "--overwrite", "service", "web", "lb.kubesphere.io/v1alpha1=openelb")
    wait_fib("10.200.0.77", list(NODES))
    assert addresses("web") == ("10.200.0.77",)
    assert finalizers("service", "web") == [LB], "not ours to clear while OpenELB may run"
    run(nodes.PORTER, "migrate", "--finish", "--kubeconfig", str(controlplane.KUBECONFIG))
    assert finalizers("service", "web") == []


def test_finish_takes_their_finalizers_and_nobody_elses():
    pool = {
        "apiVersion": "network.kubesphere.io/v1alpha2",
        "kind": "Eip",
        "metadata": {"name": "left", "labels": {"test": "left"}},
        "spec": {"address": "10.203.0.0/28", "autoAssign": False},
    }
    apply(with_finalizers(pool, IPAM, "example.org/keep"))
    web = service("web")
    apply(with_finalizers(web, LB, "finalizer.lb.kubesphere.io/node1", "service.kubernetes.io/load-balancer-cleanup"))
    said = run(nodes.PORTER, "migrate", "--finish", "--kubeconfig", str(controlplane.KUBECONFIG))
    assert set(said.splitlines()) == {
        f"Eip left: {IPAM}",
        f"Service default/web: {LB}",
        "Service default/web: finalizer.lb.kubesphere.io/node1",
    }
    assert finalizers("eip", "left") == ["example.org/keep"]
    assert finalizers("service", "web") == ["service.kubernetes.io/load-balancer-cleanup"]
    for kind, name in (("eip", "left"), ("service", "web")):
        kubectl("patch", kind, name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kubectl("delete", "eip", "left")
    until("it to be gone", lambda: "left" not in kubectl("get", "eips"))


def test_two_controllers_on_one_service_do_not_fight_for_ever():
    """The other one puts its own address in whenever it sees ours. We stop, say so, and begin anew when asked."""
    apply(service("web"))
    (ours,) = cluster.wait_addresses("web")
    theirs = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    put = ["patch", "service", "web", "--subresource=status", "--type=merge", "-p", json.dumps(theirs)]
    for _ in range(contest.LOSSES):
        until("our address", lambda: addresses("web") == (ours,), 10)
        kubectl(*put)
    status, reason, message = until(
        "to be told",
        lambda: (c := cluster.conditions("service", "web").get(CONDITION_ASSIGNED)) and c[0] == "False" and c,
    )
    assert (status, reason) == ("False", "Contested")
    assert "192.0.2.1" in message
    assert addresses("web") == ("192.0.2.1",), "theirs is left alone"
    kubectl("patch", "service", "web", "--type=merge", "-p", '{"spec":{"loadBalancerIP":"10.200.0.99"}}')
    until("what its user asks for", lambda: addresses("web") == ("10.200.0.99",), 10)
