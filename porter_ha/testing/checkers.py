"""The invariants of design 1, judged from outside: from what the API server accepted and what routers' FIBs hold.

They share no code with what they judge. A checker collects violations and never stops a run; a run that has none and
converges has kept its promise.
"""

from collections.abc import Callable

import msgspec

from porter_ha.core.planner import compute
from porter_ha.manager.replica import Replica
from porter_ha.model import names
from porter_ha.model.net import to_text
from porter_ha.testing.apiserver import Object, Request, Write
from porter_ha.testing.router import Router
from porter_ha.testing.world import MANAGER_USER, Node, World

SILENCE_S = 1.0  # I4: how long a dead node may stay a next hop
LEADER_SILENCE_S = 2.5  # the leader's own node: its death is noticed, then another leads, then routers hear it
DISTURBED_S = 20.0  # while managers are broken too
STEADY_S = 10.0  # how long a node must have been well before losing it as a next hop is a fault
ESTABLISHED_S = 5.0  # how long an EIP must have been routed for its loss to break a promise: the linger
OWN_WRITES = {"leases", "terms", "events"}
STATUS_WRITES = {"services", "eips", "bgpconfs", "bgppeers"}


class Violation(msgspec.Struct, frozen=True):
    at: float
    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:9.3f}  {self.invariant}: {self.what}"


class Checkers:
    """`disturbed` says whether managers or their paths are broken now or were lately, `unseen` whether a node that
    lives may be taken for dead because no other replica's node sees it."""

    def __init__(self, world: World, disturbed: Callable[[], bool], unseen: Callable[[str], bool]) -> None:
        self.violations: list[Violation] = []
        self.writes = 0
        self.changes = 0
        self._world, self._disturbed, self._unseen = world, disturbed, unseen
        self._held: dict[str, tuple[str, str]] = {}
        self._epoch = 0
        self._lease_until: dict[str, float] = {}
        self._carried: dict[tuple[str, str], tuple[str, float]] = {}
        world.api.observers.append(self._written)
        world.api.asked.append(self._asked)
        world.on_node.append(self._node_changed)
        for router in world.routers:
            router.on_fib.append(self._fib_watcher(router))

    def fail(self, invariant: str, what: str) -> None:
        violation = Violation(self._world.loop.time(), invariant, what)
        self.violations.append(violation)
        self._world.say(f"VIOLATION {violation}")

    # -- the API

    def _written(self, write: Write) -> None:
        if write.plural == "leases" and write.key[1] == names.LEASE_NAME:
            self._lease(write)
        if write.request is not None and write.request.user.startswith(MANAGER_USER):
            self.writes += 1
            self._only_ours(write)
        if write.plural == "services":
            self._service(write)

    def _lease(self, write: Write) -> None:
        """Who may act until when, by the server's own record: for one lease duration after each renewal."""
        if write.new is None or write.request is None:
            return
        spec = write.new["spec"]
        if holder := spec.get("holderIdentity"):
            self._lease_until[holder.rpartition("-")[0]] = self._world.loop.time() + spec["leaseDurationSeconds"]

    def _asked(self, request: Request) -> None:
        """The gate's API door: no status write leaves a replica after the term that it was sure of."""
        if (request.plural, request.sub) == ("services", "status") and not request.dry_run:
            node = request.user.partition("@")[2]
            until = self._lease_until.get(node, float("-inf"))
            if request.sent_at >= until:
                self.fail("GATE", f"{node} sent a status write {request.sent_at - until:.3f} s after its term")

    def _only_ours(self, write: Write) -> None:
        request = write.request
        assert request is not None
        ours = request.plural in OWN_WRITES or (request.plural in STATUS_WRITES and request.sub == "status")
        if request.plural == "services" and request.name in ("", names.BARRIER_SERVICE):
            ours = True
        if not ours:
            self.fail("I7", f"wrote {request.method} {request.plural}/{request.name}/{request.sub}")
        if write.old is not None and write.new is not None and write.plural in STATUS_WRITES:
            for field in ("spec",):
                if write.old.get(field) != write.new.get(field):
                    self.fail("I7", f"changed {field} of {write.plural} {write.key}")
            if _foreign(write.old) != _foreign(write.new):
                self.fail("I7", f"changed foreign metadata of {write.plural} {write.key}")

    def _service(self, write: Write) -> None:
        key = "/".join(write.key)
        before, now = _addresses(write.old), _addresses(write.new)
        if write.new is None:
            for address in before:
                if self._held.get(address, ("", ""))[0] == key:
                    del self._held[address]
            return
        if before and now != before:
            self.fail("I2", f"{key} had {before} and was given {now}")
        if now and not before:
            epoch = int(write.new["metadata"]["annotations"][names.EPOCH_ANNOTATION])
            if epoch < self._epoch:
                self.fail("FENCE", f"{key} was assigned in term {epoch} after one was in term {self._epoch}")
            self._epoch = max(self._epoch, epoch)
        for address in now:
            holder = self._held.setdefault(address, (key, key))[0]
            if holder != key:
                self.fail("I1", f"{address} is held by {holder} and given to {key}")

    # -- routers

    def _fib_watcher(self, router: Router) -> Callable[[str, frozenset[str], frozenset[str]], None]:
        return lambda prefix, old, new: self._fib(router, prefix, old, new)

    def _fib(self, router: Router, prefix: str, old: frozenset[str], new: frozenset[str]) -> None:
        world, now = self._world, self._world.loop.time()
        self.changes += 1
        key = world.recorded().get(prefix)
        carried, since = self._carried.get((router.machine.name, prefix), ("", now))
        if key is None or (not new and carried != key):
            return  # its Service is gone, and the routes follow
        if new and (carried != key or not old):
            self._carried[router.machine.name, prefix] = (key, now)
        for address in new - old:
            node = world.by_address[address]
            if not world.serves(node, key) and world.endpoints[key] and not self._excused(router, prefix, node):
                self.fail("I5", f"{router.machine.name}: {node.name} became a next hop of {prefix} and cannot serve it")
        able = {n.machine.address for n in world.nodes.values() if self._wanted(n) and world.carries(n, key)}
        if old and not new and able & old and now - since > ESTABLISHED_S:
            self.fail("I3", f"{router.machine.name}: {prefix} lost its last next hop; {sorted(able & old)} serve it")
        elif new:
            for address in old - new:
                self._lost_next_hop(router, prefix, key, world.by_address[address])

    def _excused(self, router: Router, prefix: str, node: Node) -> bool:
        """Nobody can know yet that the node died; or nobody lives who knew; or the best paths are those of a replica
        that is gone: a withdrawal can bring them back (design 2.1, fence 2) until they end; or those of a leader whom
        no other replica sees, so that it has no witness, and who without a fence goes on until its term ends."""
        forgotten = not any(self._world.alive(m) for m in node.mourners)
        if self._world.loop.time() - node.died_at < SILENCE_S or forgotten:
            return True
        best = [(k, path) for k, path in router.rib.get(prefix, {}).items() if path.med == router.best_med(prefix)]
        mine = [(k, path) for k, path in best if path.next_hop == node.machine.address]
        sources = {self._world.by_address[source] for (source, _), path in mine if not path.stale}
        return all(not source.machine.on or self._unseen(source.name) for source in sources)

    def _wanted(self, node: Node) -> bool:
        """Whether the node may be a next hop as far as replicas can know."""
        annotations = self._world.api.table("nodes")["", node.name]["metadata"].get("annotations", {})
        doubted = not node.reporting and any(self._unseen(n.name) for n in self._world.manager_nodes)
        return names.DRAIN_NODE_ANNOTATION not in annotations and not self._unseen(node.name) and not doubted

    def _lost_next_hop(self, router: Router, prefix: str, key: str, node: Node) -> None:
        world = self._world
        well_s = world.loop.time() - node.well_since
        leaving = world.served_until.get((key, node.name), float("-inf")) > world.loop.time() - STEADY_S
        moved_s = world.loop.time() - world.moved_at.get(key, float("-inf"))
        if self._wanted(node) and not leaving and moved_s > STEADY_S and well_s > STEADY_S and world.serves(node, key):
            self.fail("I4", f"{router.machine.name}: {prefix} lost {node.name}, which is well since {well_s:.1f} s")

    def _node_changed(self, node: Node) -> None:
        if node.machine.on:
            return
        leader = self._world.leader()
        limit = SILENCE_S if leader is not None else LEADER_SILENCE_S
        if self._disturbed():
            limit = DISTURBED_S
        self._world.loop.call_later(limit + 0.1, self._must_be_gone, node, node.died_at, limit)

    def _must_be_gone(self, node: Node, died_at: float, limit: float) -> None:
        if node.machine.on or node.died_at != died_at:
            return
        if limit < DISTURBED_S and self._disturbed():
            self._world.loop.call_later(DISTURBED_S - limit, self._must_be_gone, node, died_at, DISTURBED_S)
            return
        held = self._world.recorded()
        for router in self._world.routers:
            stuck = [p for p, hops in router.fib.items() if node.machine.address in hops and p in held]
            if stuck:
                self.fail("I4", f"{router.machine.name}: {node.name}, dead for {limit} s, is a next hop of {stuck}")


def _addresses(service: Object | None) -> list[str]:
    status = (service or {}).get("status", {})
    return [entry["ip"] for entry in status.get("loadBalancer", {}).get("ingress", [])]


def _foreign(thing: Object) -> Object:
    """The metadata that is not ours to write."""
    annotations = {k: v for k, v in thing["metadata"].get("annotations", {}).items() if not k.startswith("porter-ha")}
    return {**thing["metadata"], "annotations": annotations, "resourceVersion": ""}


def warm(world: World) -> bool:
    """Whether every replica has a session with every router."""
    wanted = {node.machine.address for node in world.manager_nodes}
    return all(wanted == {a for a, n in r.neighbours.items() if n.session is not None} for r in world.routers)


def unconverged(world: World) -> str:
    """What is not yet as it must be once everything is healed; empty when nothing is."""
    living = [m for m in world.managers.values() if world.alive(m)]
    acting = [m for m in living if m.acting]
    if len(living) < len(world.manager_nodes) or len(acting) != 1:
        return f"{len(living)} managers live and {len(acting)} act"
    held = world.recorded()
    reconciler = acting[0].replica.reconciler
    if unassigned := world.endpoints.keys() - set(held.values()):
        pools = {key: reconciler.waiting.get(key) for key in unassigned}
        if any(refusal is None or refusal.reason != "PoolExhausted" for refusal in pools.values()):
            return f"without an EIP: {pools}"
    for router in world.routers:
        if extra := router.rib.keys() - held.keys():
            return f"{router.machine.name} has routes to {sorted(extra)}, which nobody holds"
        for address, key in held.items():
            wanted = {n.machine.address for n in world.nodes.values() if world.carries(n, key)}
            if router.fib.get(address, frozenset()) != wanted:
                return f"{router.machine.name}: {address} of {key} has {router.fib.get(address)}, not {wanted}"
    return ""


def recomputed(world: World) -> list[str]:
    """I8: in every replica the incremental plan is what a recomputation gives, and pools hold what status shows."""
    found = []
    for name, manager in world.managers.items():
        replica = manager.replica
        planner = replica.reconciler.planner
        for group, scope in replica.peers.scopes.items():
            whole = compute(planner.spreads, planner.nodes, scope)
            steps = {a: told for a in planner.spreads if (told := planner.told(group, a))}
            if whole != steps:
                found.append(f"{name}: group {group}: incremental {steps}, recomputed {whole}")
        if manager.acting:
            used = _used(manager.replica)
            if used != world.recorded():
                found.append(f"{name}: pools hold {used}, status shows {world.recorded()}")
    return found


def _used(replica: Replica) -> dict[str, str]:
    pools = replica.reconciler.allocator.pools.values()
    return {to_text(p.settings.family, n): key for p in pools for n, key in p.used.items()}
