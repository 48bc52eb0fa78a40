"""The whole lab: up, down, and the workloads that demo and tests put into it."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.lab import controlplane, nodes, routers, topology
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.shell import PYTHON, STATE, daemons, inside, run, start, stop, until
from tests.lab.topology import NODES, ROUTERS, client_source

MANIFESTS = Path(__file__).parent / "manifests"
MANIFEST = Path(__file__).parents[2] / "deploy" / "porter-ha.yaml"
Say = Callable[[str], None]


def up(say: Say = lambda _: None, porter: bool = True) -> None:
    """Bring everything up; with `porter`, managers, agents and the sample BGP resources too."""
    down()
    say("network: 3 nodes, 2 routers, 1 client, in namespaces of their own")
    topology.create()
    say("control plane: etcd, kube-apiserver, kube-controller-manager")
    controlplane.start_all()
    kubectl("apply", "-f", str(MANIFESTS / "rbac.yaml"))
    kubectl("apply", "--server-side", "-f", "-", stdin=installed_objects())
    say("routers: FRR and BIRD; nodes: kube-proxy (nftables, iptables, nftables)")
    routers.start_frr()
    routers.start_bird()
    for node in NODES:
        nodes.start_node(node)
    if porter:
        say("Porter HA: an agent on every node, 3 manager replicas")
        for node in NODES:
            nodes.start_agent(node)
            nodes.start_manager(node)
        kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
        kubectl("apply", "-f", str(MANIFESTS / "bgp.yaml"))
        until("a leader with sessions to both routers", lambda: sessions_up(nodes.leader()), 60)


def installed_objects() -> str:
    """What a user applies, but for the pods: the lab's nodes run the processes themselves."""
    documents = [d for d in yaml.safe_load_all(MANIFEST.read_text()) if d]
    return yaml.safe_dump_all(d for d in documents if d["kind"] not in ("Deployment", "DaemonSet"))


def sessions_up(node: str, count: int = len(ROUTERS)) -> bool:
    sessions = nodes.ready(node).get("sessions") if node else None
    return isinstance(sessions, dict) and list(sessions.values()).count("Established") >= count


def settled(timeout_s: float = 90) -> None:
    """Wait for three warm replicas that hear each other, one leader, and all their sessions."""

    def so() -> bool:
        states = [nodes.ready(n) for n in NODES]
        return (
            all(s.get("ready") for s in states)
            and sum(bool(s.get("leading")) for s in states) == 1
            and all(sessions_up(n) for n in NODES)
            and all("porter_ha_replicas_heard 2.0" in nodes.endpoint(n, "/metrics") for n in NODES)
        )

    until("a settled cluster", so, timeout_s)


def down() -> None:
    """End and remove everything, also what a crashed run left."""
    for name in reversed(daemons()):
        stop(name)
    for namespace in topology.namespaces():
        for pid in _pids_in(namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # inside our namespace, but in no record of ours
    topology.destroy()
    routers.clean()
    if STATE.exists():
        logs = STATE / "log"
        for path in STATE.iterdir():
            if path != logs:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if logs.exists():
            kept = STATE.with_name("lab-last-log")
            shutil.rmtree(kept, ignore_errors=True)
            logs.rename(kept)
        STATE.rmdir()


def _pids_in(namespace: str) -> list[int]:
    return [int(p) for p in run("ip", "netns", "pids", namespace, check=False).split()]


# --- workloads -----------------------------------------------------------------------------------------------


class Pods:
    """Web servers as pods: a process in its own namespace, and the Pod object that says so."""

    def __init__(self) -> None:
        self._numbers = dict.fromkeys(NODES, 1)

    def add(self, name: str, node: str, app: str) -> None:
        self._numbers[node] += 1
        v4, v6 = topology.add_pod(name, node, self._numbers[node])
        start(f"pod-{name}", [str(PYTHON), "-m", "tests.lab.web", name], name)
        apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": app}, "annotations": {"lab/ips": f"{v4},{v6}"}},
                "spec": {"nodeName": node, "containers": [{"name": "web", "image": "lab/web"}]},
            }
        )

    def set_ready(self, name: str, ready: bool) -> None:
        kubectl("annotate", "--overwrite", "pod", name, f"lab/ready={'true' if ready else 'false'}")

    def remove(self, name: str) -> None:
        kubectl("delete", "pod", name, "--force", "--grace-period=0")
        stop(f"pod-{name}")
        topology.remove_pod(name)


def service(name: str, app: str = "", *, opt_in: str = "annotation", **more: object) -> dict[str, object]:
    """A LoadBalancer Service on port 80, TCP and UDP, opted in one way or another."""
    annotations = {"lb.kubesphere.io/v1alpha1": "porter"} if opt_in == "annotation" else {}
    extra, labels = more.pop("annotations", {}), more.pop("labels", {})
    assert isinstance(extra, dict)
    spec: dict[str, object] = {
        "type": "LoadBalancer",
        "selector": {"app": app or name},
        "ports": [
            {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
            {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
        ],
        "allocateLoadBalancerNodePorts": False,
        **more,
    }
    if opt_in == "class":
        spec["loadBalancerClass"] = "porter-ha.io/bgp"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": {**annotations, **extra}, "labels": labels},
        "spec": spec,
    }


def addresses(name: str) -> tuple[str, ...]:
    """The EIPs of a Service, as kubectl shows them."""
    found = json.loads(kubectl("get", "service", name, "-o", "json"))
    return tuple(i["ip"] for i in found["status"].get("loadBalancer", {}).get("ingress", []))


def wait_addresses(name: str, count: int = 1) -> tuple[str, ...]:
    return until(f"{count} EIP(s) of Service {name}", lambda: a if len(a := addresses(name)) == count else (), 20)


def wait_fib(eip: str, wanted: list[str], timeout_s: float = 20) -> None:
    """Until both routers' kernels forward the EIP to exactly these nodes."""
    for router in ROUTERS:

        def carries(router: str = router) -> bool:
            return routers.node_names(routers.fib(router).get(eip, frozenset())) == sorted(wanted)

        until(f"{eip} via {wanted or 'no node'} in {router}", carries, timeout_s)


def fetch(router: str, eip: str, count: int = 20, port: int = 80) -> dict[str, dict[str, int]]:
    """Pages fetched by the client through a router: {"served": by pod, "errors": by kind}."""
    source = client_source(router)[1 if ":" in eip else 0]
    command = [str(PYTHON), "-m", "tests.lab.traffic", "fetch", source, eip, str(count), str(port)]
    found: dict[str, dict[str, int]] = json.loads(inside("client", *command))
    return found


def conditions(kind: str, name: str) -> dict[str, tuple[str, str, str]]:
    """type -> (status, reason, message) of an object's conditions."""
    status = get(kind, name).get("status", {})
    assert isinstance(status, dict)
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in status.get("conditions", [])}


def wait_condition(kind: str, name: str, condition: str) -> tuple[str, str, str]:
    """(status, reason, message) once the condition is there."""

    def found() -> tuple[str, str, str]:
        return conditions(kind, name).get(condition, ("", "", ""))

    until(f"condition {condition} of {kind} {name}", lambda: found()[0], 20)
    return found()
