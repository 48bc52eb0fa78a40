"""The bench's results for people: goals met and missed, a table, and docs/performance.md."""

import os
import platform
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from loadtest.measure import Assignment, mean_added_ms, share_of_server

if TYPE_CHECKING:
    from loadtest.bench import Results

# As measured elsewhere (2 cores, kube-apiserver 1.36, the same requests), to be set beside ours, not compared by time.
RIVALS = """| | MetalLB 0.16 | OpenELB 0.6 |
|---|---|---|
| Service to the router's kernel, one at a time, p50 / p99 | 9.0 / 26.5 ms | - |
| 1,000 at once: the last in the kernel after the last create | 6.8 s | - |
| assignment | 100 a second, p50 2.5 s | 10 a second, p50 23 s for 500 |
| its allocator alone: 4,000 / 16,000 addresses | 3.8 / 96.9 s | 2.9 / 47.0 s |
| memory of the node agent | 88 MB | - |
"""


DONE = """Shares, not costs: profiling makes each call dearer. What profiles led to so far, dearest first:

- the admission policy judged each write in four phases, and the API server converted both objects for each; now a good
  write ends after the first (porter_ha/model/fence.py);
- frames between processes were read by tasks that waited for a stream; now they are taken in the turn of the loop in
  which they arrive (porter_ha/protocol.py);
- a claim that has all it asks for went through the whole allocator again when its status came back
  (porter_ha/core/reconciler.py);
- HTTP was two fifths of a shard: aiohttp gave way to httptools (porter_ha/http, docs/adr/0020), and the API server is
  asked not to look for unknown fields (porter_ha/kube/writer.py);
- an agent's notices of its own routes cost the kernel more than the routes (a filter in porter_ha/netlink/wire.py), and
  libnftables read the whole ruleset for each EIP (porter_ha/netlink/elements.py);
- most of what was left was no code of ours: each frame and each watch event woke a process with cold caches. Under load
  they are gathered, and a shard does not push the API server aside when it is woken (docs/adr/0022).

What is left is a request and two watch events for each Service, as in the bare client, and the hops between processes,
which it has not. What comes alone costs more than what comes among others, in every part: an agent's change takes
0.1 ms of processor time right after another one, and 0.5 ms after a pause of 50 ms (seen once, by hand, 2026-11-26).
"""


class Goal(NamedTuple):
    what: str
    value: str
    wanted: str
    met: bool


def goals(results: "Results") -> Iterator[Goal]:
    """What the product promises of its speed, as far as it was measured."""
    if (service := results.service) is not None:
        yield Goal(
            "assignment rate / bare client's", f"{service.rate_ratio}", "at least 0.95", service.rate_ratio >= 0.95
        )
        yield Goal(
            "the same / that of a bare client whose writes the fence judges too",
            f"{service.fenced_ratio}",
            "at least 0.95",
            service.fenced_ratio >= 0.95,
        )
        last = max(burst.after_last_create_s for burst in service.burst)
        yield Goal("burst: last EIP in the FIB after the last create", f"{last} s", "at most 0.3 s", last <= 0.3)
        p50 = service.single.fib_p50_ms
        best = f"best of {len(service.ours)} rounds"
        text = f"{p50} ms, {best} (bare client's EIP alone: {service.bare_single_p50_ms} ms)"
        yield Goal("one Service to BIRD's FIB, p50", text, "under 7 ms", p50 < 7)
        lost = sum(b.count - b.routed for b in service.burst) + sum(a.count - a.unique for a in service.ours)
        yield Goal("EIPs lost or doubled", str(lost), "0", lost == 0)
    if len(results.scale) > 1:
        first, last_size = results.scale[0], results.scale[-1]
        idle = results.scale_idle_percent
        if results.again:
            dear, cheap = (results.again[one.count] for one in (last_size, first))
            ratio = share_of_server(dear, idle) / share_of_server(cheap, idle)
            plain = mean_added_ms(dear, idle) / mean_added_ms(cheap, idle)
            what = "processor time that a Service assigned anew adds, as a share of the API server's"
            value = f"{ratio:.2f} (in ms, however fast the machine was: {plain:.2f})"
            yield Goal(f"{what}, among {last_size.count} / {first.count}", value, "at most 1.2", ratio <= 1.2)
        if (paced := results.paced) is not None:
            ratio = last_size.added_ms(idle) / paced.added_ms(idle)
            what = f"processor time that each of {last_size.count} new ones adds / of {paced.count} that come as slowly"
            yield Goal(what, f"{ratio:.2f}", "at most 1.2", ratio <= 1.2)
    if 16000 in results.allocator_s:
        took = results.allocator_s[16000]
        yield Goal("a pool of 16,000 filled", f"{took} s", "under 0.1 s", took < 0.1)
    if (table := results.table) is not None:
        yield Goal(
            f"{table.prefixes} prefixes into BIRD / BIRD as sender", str(table.ratio), "at most 1.5", table.ratio <= 1.5
        )
    if results.plan:
        small, large = results.plan[0], max(results.plan, key=lambda p: p.services)
        ratio = large.service_us / small.service_us
        what = f"plan: one change at {large.services} Services / at {small.services}"
        yield Goal(what, f"{ratio:.2f}", "at most 1.5", ratio <= 1.5)
    if (agent := results.agent) is not None:
        yield Goal("agent: memory without EIPs", f"{agent.empty_rss_mb} MB", "under 40 MB", agent.empty_rss_mb < 40)
        cold = f"{agent.cold_kernel_ms} ms of the kernel, {agent.cold_sync_ms} ms in all"
        what = f"agent: {agent.eips} EIPs programmed from nothing"
        yield Goal(what, cold, "100 ms of the kernel", agent.cold_kernel_ms <= 100)
        yield Goal(
            "agent: processor time of a change", f"{agent.change_cpu_ms} ms", "under 1 ms", agent.change_cpu_ms < 1
        )
    if (memory := results.memory) is not None:
        what = f"replica: {memory.services} Services, {memory.nodes} nodes, 4 routers"
        yield Goal(what, f"{memory.pss_mb} MB", "under 300 MB", memory.pss_mb < 300)
    if 5000 in results.probes:
        cost = results.probes[5000]
        text = f"{cost.idle_user_percent} % of a core, {cost.idle_cpu_percent} % with the kernel's part on both sides"
        yield Goal("probing 5,000 nodes", text, "its own process above 20 %", cost.idle_user_percent <= 20)


def table(results: "Results") -> str:
    """Goals as a Markdown table."""
    rows = [f"| {g.what} | {g.value} | {g.wanted} | {'yes' if g.met else 'NO'} |" for g in goals(results)]
    return "\n".join(["| | measured | goal | met |", "|---|---|---|---|", *rows])


def page(results: "Results") -> str:
    """docs/performance.md."""
    sections = [
        "# Performance\n",
        "Written by `make bench` (`python -m loadtest.bench --write`): do not edit. Each section is of one "
        "run, and all are, unless steps were asked for by name to complete an earlier run, on "
        f"{os.cpu_count()} cores ({platform.machine()}), which also carry etcd, kube-apiserver, BIRD and the load "
        "itself; other work may share the machine, so ratios of things measured in turns count more than times. The "
        "*bare client* only watches Services and writes the same status (`loadtest/bare.py`): what it reaches is what "
        "the API server gives. *Within the fence* it runs as our service account, so that the admission policy judges "
        "its writes as it judges ours: the API server pays for that with each write.\n",
        "## Goals\n",
        table(results) + "\n",
    ]
    if results.service is not None:
        sections += ["## Assignment and routes, in turns with the bare client\n", _service(results) + "\n"]
    if results.scale:
        sections += ["## More Services\n", _scale(results) + "\n"]
    if results.nodes:
        rows = [f"| {n} | {s.assign_p50_ms} | {s.fib_p50_ms} | {s.fib_p99_ms} |" for n, s in results.nodes.items()]
        head = "| nodes | EIP p50 ms | all next hops in the FIB p50 ms | p99 ms |\n|---|---|---|---|\n"
        sections += ["## More nodes\n", head + "\n".join(rows) + "\n"]
    if results.plan:
        head = (
            "| Services | nodes | one Service's change, us | a node's death, ms | its EIPs |\n|---|---|---|---|---|\n"
        )
        rows = [f"| {p.services} | {p.nodes} | {p.service_us} | {p.node_ms} | {p.node_eips} |" for p in results.plan]
        sections += ["## The plan alone (processor time)\n", head + "\n".join(rows) + "\n"]
    if results.profile:
        sections += ["## Where the processor time goes\n", _profiles(results) + "\n", DONE]
    sections += ["## Others\n", *[f"- {line}" for line in _others(results)], ""]
    sections += ["## Rivals, as measured elsewhere\n", RIVALS]
    return "\n".join(sections)


def _service(results: "Results") -> str:
    service = results.service
    assert service is not None
    rows = []
    for bare, fenced, ours, burst in zip(service.bare, service.bare_fenced, service.ours, service.burst, strict=True):
        rates = f"{bare.rate} | {fenced.rate} | {ours.rate}"
        waits = f"{bare.p50_ms} / {bare.p99_ms} | {ours.p50_ms} / {ours.p99_ms}"
        cost = f"{bare.cpu_ms_per_service} | {ours.cpu_ms_per_service}"
        server = (
            f"{bare.apiserver_ms_per_service} | {fenced.apiserver_ms_per_service} | {ours.apiserver_ms_per_service}"
        )
        rows.append(f"| {rates} | {waits} | {cost} | {server} | {burst.after_last_create_s} |")
    head = (
        "| EIPs/s: bare | bare within the fence | ours | p50 / p99 ms: bare | ours | CPU ms a Service: bare | ours "
        "| API server's: bare | bare within the fence | ours | burst with routes: last one after the last create, s |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows)


def _scale(results: "Results") -> str:
    idle = results.scale_idle_percent
    head = "| Services | EIPs/s | p50 ms | p99 ms | CPU ms a Service | of that added by it | API server's |\n"
    head += "|---|---|---|---|---|---|---|\n"

    def table(rows: Iterable[tuple[str, Assignment, float]]) -> str:
        return head + "\n".join(
            f"| {what} | {a.rate} | {a.p50_ms} | {a.p99_ms} | {a.cpu_ms_per_service} | {a.added_ms(idle_percent)} "
            f"| {a.apiserver_ms_per_service} |"
            for what, a, idle_percent in rows
        )

    created = [(f"{a.count}", a, idle) for a in results.scale]
    if (paced := results.paced) is not None:
        created.append((f"{paced.count}, as slowly as {results.scale[-1].count}", paced, idle))
    limit = ""
    if results.bare_paces:
        created += [(f"{bare.count}, by the bare client", bare, 0.0) for bare in results.bare_paces]
        fast, paced_bare = (bare.cpu_ms_per_service for bare in results.bare_paces)
        limit = f" So it is for the bare client, in one process: {paced_bare / fast:.2f} times as much at that pace."
    anew = [(f"{a.count} among {among}", a, idle) for among, rounds in results.again.items() for a in rounds]
    slow = results.scale[-1].added_ms(idle) / results.scale[0].added_ms(idle)
    return "\n".join(
        [
            f"An idle replica uses {idle:.2f} % of a core (probes, Lease, links); what a Service adds is without it.\n",
            f"New Services. A Service adds {slow:.2f} times as much to {results.scale[-1].count} of them as to "
            f"{results.scale[0].count}: the more there are, the slower the API server makes one more (its ClusterIP "
            "allocator counts all IPAddress objects for each: docs/adr/0022), and what comes slowly costs more: it "
            "is handled piece by piece, through three processes, where news that comes fast is handled in batches."
            f"{limit}\n",
            table(created) + "\n",
            "Services that are there already, opt out and are then assigned anew, as fast as they go: that costs the "
            "API server about the same however many there are.\n",
            table(anew),
        ]
    )


def _profiles(results: "Results") -> str:
    """Of the replica's processes while Services came and went: the rooms with most of it."""
    head = "| Services | process | profiled ms a Service | of that |\n|---|---|---|---|\n"
    rows = []
    for found in results.profile:
        if found.ms_per_service >= 0.05:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in [*found.rooms.items()][:6])
            rows.append(f"| {found.services} | {found.process} | {found.ms_per_service} | {shares} |")
    return head + "\n".join(rows)


def _others(results: "Results") -> Iterator[str]:
    if results.allocator_s:
        yield "allocator: " + ", ".join(f"{n} addresses in {s} s" for n, s in results.allocator_s.items())
    if (sent := results.table) is not None:
        yield f"{sent.prefixes} prefixes into BIRD's table, s: ours {sent.ours_s}, BIRD as sender {sent.bird_s}"
    if results.agent is not None:
        agent = results.agent
        yield f"agent with {agent.eips} EIPs: {agent.rss_mb} MB; a change is in the kernel in {agent.change_sync_ms} ms"
    if results.memory is not None:
        yield f"replica, proportional set size in MB: {results.memory.processes}"
    for count, cost in results.probes.items():
        yield (
            f"idle replica that probes {count} nodes: {cost.idle_user_percent} % of a core, {cost.idle_cpu_percent} % "
            "with what the kernel does for it and, here, for the nodes that answer"
        )
    if results.watching is not None:
        each = results.watching.apiserver_us_per_agent_and_change
        yield f"an agent costs the API server {each} us for each change of a LoadBalancer Service: 1,000 agents and 10 "
        yield f"changes a second are {each / 100:.1f} % of a core"
