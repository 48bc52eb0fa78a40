"""Nodes join Local EIPs when kube-proxy there says that it serves, and leave at once."""

import asyncio

from porter_ha.manager.joining import PATIENCE_S, Joining
from porter_ha.model.plan import Serving
from porter_ha.testing.loop import SimulatedLoop
from tests.unit.builders import claim


class Host:
    """Of the machine only what is asked: its clock, and what answers."""

    def __init__(self, takes_s=0.001):
        self.serving = set()
        self.asked = []
        self.takes_s = takes_s

    def now(self):
        return asyncio.get_running_loop().time()

    async def healthy(self, address, port, path):
        self.asked.append((address, port, path))
        await asyncio.sleep(self.takes_s)
        return address in self.serving


def local(*nodes, **more):
    return claim(local=True, health_port=30123, serving=(Serving(4, nodes),), **more)


def nodes_of(found):
    return [node for serving in found.serving for node in serving.nodes]


def joining(host):
    joined = []
    made = Joining(host, lambda: {"n1": "10.0.0.1", "n2": "10.0.0.2"}, joined.append)
    return made, joined


def run(scenario):
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()


def test_who_served_before_us_is_taken_as_it_is():
    async def scenario():
        host = Host()
        made, joined = joining(host)
        assert nodes_of(made.judge(local("n1", "n2"))) == ["n1", "n2"]
        made.asking = True
        assert nodes_of(made.judge(local("n1", "n2"))) == ["n1", "n2"], "heard again"
        await asyncio.sleep(1)
        assert (host.asked, joined) == ([], [])

    run(scenario)


def test_a_node_joins_when_kube_proxy_there_serves_and_leaves_at_once():
    async def scenario():
        host = Host()
        made, joined = joining(host)
        made.judge(local("n1"))
        made.asking = True
        assert nodes_of(made.judge(local("n1", "n2"))) == ["n1"]
        await asyncio.sleep(1.0)
        assert joined == []
        host.serving.add("10.0.0.2")
        await asyncio.sleep(0.2)
        assert [nodes_of(found) for found in joined] == [["n1", "n2"]]
        assert set(host.asked) == {("10.0.0.2", 30123, "/")}
        assert nodes_of(made.judge(local("n2"))) == ["n2"], "a node that leaves asks nobody"
        assert nodes_of(made.judge(local("n1", "n2"))) == ["n2"], "and is asked when it comes back"

    run(scenario)


def test_where_nobody_answers_it_joins_all_the_same():
    async def scenario():
        made, joined = joining(Host())
        made.asking = True
        assert nodes_of(made.judge(local("n1", "unknown"))) == []
        await asyncio.sleep(0.01)
        assert [nodes_of(found) for found in joined] == [["unknown"]], "without an address nothing can be asked"
        await asyncio.sleep(PATIENCE_S + 0.1)
        assert [nodes_of(found) for found in joined][1:] == [["n1", "unknown"]]

    run(scenario)


def test_where_nobody_answers_none_waits_for_others():
    async def scenario():
        host = Host(takes_s=1.0)
        made, joined = joining(host)
        made.asking = True
        keys = [f"default/s{number}" for number in range(1000)]
        for key in keys:
            made.judge(local("n1", key=key))
        await asyncio.sleep(PATIENCE_S + 0.1)
        assert sorted(found.key for found in joined) == sorted(keys)
        assert len(host.asked) <= 64 * (PATIENCE_S + 1)

    run(scenario)


def test_a_service_that_goes_or_needs_no_asking_is_forgotten():
    async def scenario():
        host = Host()
        made, joined = joining(host)
        made.asking = True
        made.judge(local("n1"))
        made.judge(local("n2", key="default/other"))
        made.forget("default/web")
        cluster = claim("default/other", serving=(Serving(4, ("n1",)),))
        assert made.judge(cluster) == cluster
        await asyncio.sleep(PATIENCE_S + 1)
        assert joined == []

    run(scenario)
