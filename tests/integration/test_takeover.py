"""Taking over from OpenELB: its addresses stay, and what it leaves in objects goes."""

import json

import pytest

from tests.lab import controlplane, nodes
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
