"""Drills on real nodes: what an operator does to a cluster, and what happens to a machine, under counted traffic."""

from tests.lab import drills, nodes, real, release
from tests.lab.cluster import sessions_up
from tests.lab.controlplane import kubectl
from tests.lab.drills import Drill, another_leader
from tests.lab.shell import PREFIX, run, until
from tests.lab.topology import NODES

_drained: list[str] = []


def delete_leader_pod() -> None:
    """Its successor must announce before it has left; the Deployment then makes another one."""
    old = nodes.leader()
    gone = release.manager_of(old)
    kubectl("delete", "pod", gone, "--namespace", release.NAMESPACE, "--wait=true")
    another_leader(old)
    until(f"another manager on {old}", lambda: release.manager_of(old) not in ("", gone), 60)
    whole()


def kill_leader_container() -> None:
    """The container's first process dies, as when memory runs out; the kubelet starts it again."""
    old = nodes.leader()
    before = nodes.ready(old)
    for pid in processes(old, "manager"):
        run("kill", "-9", pid, check=False)
    another_leader(old)
    until(f"the manager of {old} again", lambda: nodes.ready(old).get("ready") and nodes.ready(old) != before, 60)
    whole()


def processes(node: str, component: str = "") -> list[str]:
    """Ours on the node, as this machine numbers them; of one component, or all."""
    inside = set(run("ip", "netns", "pids", f"{PREFIX}{node}").split())
    found = run("pgrep", "-f", f"/opt/porter-ha/bin/porter-ha {component}", check=False).split()
    return [pid for pid in found if pid in inside]


def upgrade() -> None:
    """Every manager and every agent is replaced, by helm."""
    release.upgrade("manager.podAnnotations.drill=upgrade", "agent.podAnnotations.drill=upgrade")
    whole()


def rollback() -> None:
    release.rollback()
    whole()


def drain_leader_node() -> None:
    """`kubectl drain` evicts the leader, which the disruption budget allows once; the node's agent stays."""
    old = nodes.leader()
    _drained.append(old)
    kubectl("drain", old, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
    another_leader(old)


def uncordon() -> None:
    while _drained:
        kubectl("uncordon", _drained.pop())
    whole()


def power_on() -> None:
    drills.power_on(real.power_on)
    until("3 Ready nodes", lambda: real.ready_nodes() == list(NODES), 120)
    whole()


def no_managers_and_back() -> None:
    """Porter's old acceptance case: without any manager EIPs still answer, for the routers' restart time."""
    deployment = ["deployment/porter-ha-manager", "--namespace", release.NAMESPACE]
    kubectl("scale", *deployment, "--replicas=0")
    until("no manager", lambda: not any(nodes.ready(node) for node in NODES), 90)
    kubectl("scale", *deployment, "--replicas=3")
    whole()


def whole() -> None:
    """Three managers and three agents are ready, and every session is up."""
    release.rolled_out()
    until("a leader", nodes.leader, 60)
    until("sessions of every manager", lambda: all(sessions_up(node) for node in NODES), 90)


leader_node_off = drills.power_off(nodes.leader, real.power_off)
ALL = [
    Drill("leader-pod-deleted", "nothing is lost", 30, delete_leader_pod),
    Drill("leader-container-killed", "nothing is lost", 20, kill_leader_container),
    Drill("helm-upgrade", "nothing is lost", 60, upgrade),
    Drill("helm-rollback", "nothing is lost", 60, rollback),
    Drill("leader-node-drained", "nothing is lost", 30, drain_leader_node, uncordon),
    Drill("no-managers-and-back", "nothing is lost", 60, no_managers_and_back),
    Drill("leader-node-off", "only what is on its way to the dead node", 15, leader_node_off, power_on, True),
]
