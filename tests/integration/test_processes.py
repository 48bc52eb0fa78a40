"""Any one process of ours is killed, and it heals: no route lost, no EIP changed, no two that lead."""

import os
import signal
import time

import pytest

from tests.lab import cluster, nodes, routers
from tests.lab.cluster import addresses, service, wait_addresses, wait_fib
from tests.lab.controlplane import apply, get, kubectl
from tests.lab.flows import RouteMonitor
from tests.lab.shell import PIDS, inside, session_pids, stop, until
from tests.lab.topology import NODES, ROUTERS

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def eip():
    apply(service("web"))
    (address,) = wait_addresses("web")
    wait_fib(address, list(NODES))
    until("three warm replicas", lambda: all(nodes.ready(n).get("ready") for n in NODES), 30)
    until("a leader", nodes.leader)
    return address


class RouteWatch(RouteMonitor):
    """What must not be among the changes of a route."""

    def changes(self) -> list[str]:
        """Deletions, and routes with fewer than all next hops: there must be none when no term changes."""
        return [line for line in self.lines() if "Deleted" in line or line.count("via") < len(NODES)]

    def deletions(self) -> list[str]:
        """Moments without any route. While a new term's MED arrives, BIRD replaces an EIP's paths one by one."""
        return [line for line in self.lines() if "Deleted" in line]


@pytest.mark.parametrize("worker", ["shard-0", "speaker"])
def test_a_worker_of_the_leader_dies(eip, worker):
    watch, leader = RouteWatch(eip), nodes.leader()
    pid = nodes.pids(leader)[worker]
    os.kill(pid, signal.SIGKILL)
    until("its successor", lambda: nodes.pids(leader).get(worker) not in (None, pid), 20)
    until("sessions", lambda: cluster.sessions_up(leader), 20)
    apply(service("after", "web"))
    wait_fib(wait_addresses("after")[0], list(NODES))
    assert nodes.leader() == leader, "the leader went on leading"
    assert watch.changes() == []
    assert addresses("web") == (eip,)


@pytest.fixture
def alone():
    """A replica that leads alone, with a shard for each core that it may use."""
    for node in NODES:
        stop(f"{node}-manager")
    nodes.start_manager(NODES[0], 0)
    until("it leads", lambda: nodes.leader() == NODES[0], 40)
    until("its sessions", lambda: cluster.sessions_up(NODES[0]), 20)
    yield NODES[0]
    stop(f"{NODES[0]}-manager")
    for node in NODES:
        nodes.start_manager(node)
    cluster.settled()


def test_shards_follow_the_cores_that_the_replica_may_use(eip, alone):
    manager, cores = nodes.manager_pids(alone)[0], os.sched_getaffinity(0)
    wait_fib(eip, list(NODES))
    watch, made = RouteWatch(eip), []

    def shards() -> int:
        return sum(name.startswith("shard") for name in nodes.pids(alone))

    assert shards() == len(cores) > 1
    for allowed in ({min(cores)}, cores):
        os.sched_setaffinity(manager, allowed)
        while shards() != len(allowed):  # Services come all the while: the old shards', the new ones', and in between
            made.append(f"during-{len(made)}")
            apply(service(made[-1], "web"))
            assert len(made) < 300
    got = {wait_addresses(name)[0] for name in made}
    assert len(got) == len(made)
    assert eip not in got
    for address in got:
        wait_fib(address, list(NODES))
    assert watch.changes() == []
    assert addresses("web") == (eip,)


def test_only_shards_let_others_finish_their_turn(eip):
    policies = {name: os.sched_getscheduler(pid) for name, pid in nodes.pids(nodes.leader()).items()}
    assert {name for name, policy in policies.items() if policy == os.SCHED_BATCH} == {"shard-0"}
    assert "speaker" in policies


def test_a_service_deleted_while_the_shard_is_down_is_noticed(eip):
    apply(service("doomed", "web"))
    (doomed,) = wait_addresses("doomed")
    wait_fib(doomed, list(NODES))
    leader = nodes.leader()
    os.kill(nodes.pids(leader)["shard-0"], signal.SIGKILL)
    kubectl("delete", "service", "doomed")
    until("its withdrawal", lambda: all(doomed not in routers.fib(r) for r in ROUTERS), 20)


@pytest.mark.parametrize("how", ["the manager process", "all at once"])
def test_the_leader_dies(eip, how):
    watch, old = RouteWatch(eip), nodes.leader()
    before = {name: addresses(name) for name in ("web",)}
    if how == "all at once":
        nodes.kill_manager(old)
    else:
        os.kill(nodes.manager_pids(old)[0], signal.SIGKILL)
    until("another leader", lambda: nodes.leader() not in ("", old), 20)
    apply(service("after", "web"))
    wait_fib(wait_addresses("after")[0], list(NODES))
    until("the killed replica, warm again", lambda: nodes.ready(old).get("ready"), 20)
    assert {name: addresses(name) for name in ("web",)} == before
    time.sleep(6)  # its sessions come back after the linger, empty: that must not disturb the new leader's routes
    until("the killed replica's sessions", lambda: cluster.sessions_up(old), 20)
    assert watch.deletions() == []


def test_a_planned_stop_hands_over_at_once(eip):
    """SIGTERM releases the Lease: no waiting for its end."""
    watch, old = RouteWatch(eip), nodes.leader()
    parent = nodes.manager_pids(old)[0]
    began = time.monotonic()
    os.kill(parent, signal.SIGTERM)
    until("another leader", lambda: nodes.leader() not in ("", old), 20)
    duration = get("lease", "-n", "porter-ha-system", "porter-ha-leader")["spec"]["leaseDurationSeconds"]
    assert time.monotonic() - began < duration, "faster than the Lease would have expired"
    wait_fib(eip, list(NODES))
    assert watch.deletions() == []


def test_a_frozen_leader_is_replaced_and_does_no_harm_when_it_thaws(eip):
    old = nodes.leader()
    pids = nodes.manager_pids(old)
    watch = RouteWatch(eip)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        others = [n for n in NODES if n != old]
        until("another leader", lambda: any(nodes.ready(n).get("leading") for n in others), 20)
        apply(service("during", "web"))
        (during,) = wait_addresses("during")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until("the thawed replica to follow", lambda: nodes.ready(old).get("leading") is False, 20)
    assert [n for n in NODES if nodes.ready(n).get("leading")] != [old]
    apply(service("after", "web"))
    (after,) = wait_addresses("after")
    assert len({eip, during, after}) == 3
    assert addresses("web") == (eip,)
    assert watch.deletions() == []
    wait_fib(after, list(NODES))


def test_the_lease_is_deleted_by_hand(eip):
    epoch = int(nodes.ready(nodes.leader())["epoch"])
    kubectl("delete", "lease", "-n", "porter-ha-system", "porter-ha-leader")
    until("a leader of a later term", lambda: int(nodes.ready(nodes.leader() or "node1").get("epoch", 0)) > epoch, 20)
    until("one leader", lambda: sum(bool(nodes.ready(n).get("leading")) for n in NODES) == 1)
    wait_fib(eip, list(NODES))


def test_an_agent_dies(eip):
    wrapper = int((PIDS / "node1-agent").read_text())
    for pid in session_pids(wrapper):
        if pid != wrapper:
            os.kill(pid, signal.SIGKILL)
    assert eip in inside("node1", "ip", "route", "show", "table", "4790"), "its routes stay"
    until("the agent", lambda: nodes.ready("node1", nodes.AGENT_PORT).get("ready"), 20)
    apply(service("after", "web"))
    (after,) = wait_addresses("after")
    until("the new route", lambda: after in inside("node1", "ip", "route", "show", "table", "4790"))


def test_every_process_tells_its_metrics_and_health(eip):
    for node in NODES:
        for port, wanted in (
            (nodes.MANAGER_PORT, "porter_ha_bgp_session_up"),
            (nodes.AGENT_PORT, "porter_ha_agent_routes"),
        ):
            assert wanted in nodes.endpoint(node, "/metrics", port)
            assert nodes.endpoint(node, "/healthz", port) == "ok\n"
            assert nodes.ready(node, port)["ready"] is True
    leaders = sum("porter_ha_leader 1.0" in nodes.endpoint(node, "/metrics") for node in NODES)
    assert leaders == 1
