"""What goes wrong in a simulated run: seeded faults, each of which heals itself.

Faults of managers come one at a time, and so do faults of nodes; the API server's and the users' come in between as
they like. That is the promise's own condition: any one manager, any one node, and the API server besides.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from porter_ha.kube.client import ApiError
from porter_ha.model import names
from porter_ha.testing.apiserver import Request
from porter_ha.testing.router import HOLD_S
from porter_ha.testing.world import NAMESPACE, Manager, Node, World

Fault = Callable[["Faults"], Awaitable[str]]
SETTLING_S = 6.0
LONGEST_S = 8.0


class Faults:
    """`disturbed` is true while managers or their paths are broken, and for SETTLING_S after."""

    def __init__(self, world: World, random: Random) -> None:
        self.world, self.random = world, random
        self._busy = 0
        self._calm_at = 0.0
        self._unseen: dict[str, float] = {}
        self.one_manager = asyncio.Lock()

    def unseen(self, node: str) -> bool:
        """Whether no other replica's node can see this one, or could lately: they may take it for dead."""
        return self.world.loop.time() < self._unseen.get(node, 0.0)

    def hide(self, node: str) -> None:
        """From now on, and until SETTLING_S after the fault."""
        self._unseen[node] = self.world.loop.time() + LONGEST_S + SETTLING_S

    @property
    def disturbed(self) -> bool:
        return self._busy > 0 or self.world.loop.time() < self._calm_at

    async def chain(
        self, faults: tuple[Fault, ...], gap_s: tuple[float, float], until_s: float, disturbing: bool = False
    ) -> None:
        """One fault after another, with pauses, until the time is over."""
        while faults:
            await asyncio.sleep(self.random.uniform(*gap_s))
            if self.world.loop.time() >= until_s:
                return
            fault = self.random.choice(faults)
            if not disturbing:
                await self._have(fault)
                continue
            async with self.one_manager:
                self._busy += 1
                await self._have(fault)
                self._busy -= 1
                self._calm_at = self.world.loop.time() + SETTLING_S

    async def _have(self, fault: Fault) -> None:
        self.world.say(f"fault {fault.__name__}")
        what = await fault(self)
        self.world.say(f"healed {fault.__name__}: {what}")

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.random.uniform(least, most))

    def manager(self) -> tuple[Node, Manager] | None:
        """A living one; the leader more often than not."""
        world = self.world
        living = [(n, world.managers[n.name]) for n in world.manager_nodes if n.name in world.managers]
        living = [(n, m) for n, m in living if world.alive(m)]
        leader = [pair for pair in living if pair[1].acting]
        if leader and self.random.random() < 0.6:
            return leader[0]
        return self.random.choice(living) if living else None


# --- managers ------------------------------------------------------------------------------------------------


async def kill_manager(faults: Faults) -> str:
    found = faults.manager()
    if found is None:
        return "nobody"
    node, manager = found
    manager.process.kill()
    await faults.pause(0.2, 4.0)
    faults.world.start_manager(node)
    await faults.pause(0.0, 4.0)
    return node.name


async def kill_all_managers(faults: Faults) -> str:
    """Routers keep what they were told, and the first that leads again replaces it."""
    world = faults.world
    for manager in world.managers.values():
        manager.process.kill()
        await faults.pause(0.0, 0.3)
    await faults.pause(0.2, 4.0)
    for node in world.manager_nodes:
        world.start_manager(node)
        await faults.pause(0.0, 1.0)
    await faults.pause(6.0, 8.0)
    return "all"


async def restart_manager(faults: Faults) -> str:
    """A rollout: SIGTERM, and a new one once the old one has ended."""
    found = faults.manager()
    if found is None:
        return "nobody"
    node, manager = found
    manager.stop.set()
    while faults.world.alive(manager):
        await asyncio.sleep(0.1)
    faults.world.start_manager(node)
    await faults.pause(0.5, 4.0)
    return node.name


async def freeze_manager(faults: Faults) -> str:
    """SIGSTOP of the whole replica, or of one of its processes, with whatever it has in flight."""
    found = faults.manager()
    if found is None:
        return "nobody"
    chosen = found[1].processes
    if faults.random.random() < 0.5:
        chosen = [faults.random.choice(chosen)]
    for process in chosen:
        process.stop()
    await faults.pause(0.3, 12.0)
    for process in chosen:
        process.cont()
    return ", ".join(process.name for process in chosen)


async def kill_worker(faults: Faults) -> str:
    found = faults.manager()
    if found is None or not found[1].children:
        return "nobody"
    child = faults.random.choice(list(found[1].children.values()))
    child.kill()
    await faults.pause(0.5, 3.0)
    return child.name


async def resized(faults: Faults) -> str:
    """A replica may use more or fewer cores."""
    found = faults.manager()
    if found is None:
        return "nobody"
    found[0].cores = faults.random.randint(1, 4)
    await faults.pause(0.5, 9.0)
    return f"{found[0].name} has {found[0].cores}"


async def cut_from_api(faults: Faults) -> str:
    found = faults.manager()
    if found is None:
        return "nobody"
    world = faults.world
    world.network.cut(found[0].machine, world.control.machine)
    await faults.pause(0.5, 9.0)
    world.network.mend(found[0].machine, world.control.machine)
    return found[0].name


async def cut_replicas(faults: Faults) -> str:
    """One replica loses the others, and with them sight of their nodes."""
    found = faults.manager()
    if found is None:
        return "nobody"
    world, machine = faults.world, found[0].machine
    others = [n.machine for n in world.manager_nodes if n is not found[0]]
    if faults.random.random() < 0.5:
        others = others[:1]
    for other in others:
        world.network.cut(machine, other)
    if len(others) > 1:
        faults.hide(found[0].name)
    await faults.pause(0.5, LONGEST_S)
    for other in others:
        world.network.mend(machine, other)
    return f"{found[0].name} from {', '.join(m.name for m in others)}"


async def cut_from_router(faults: Faults) -> str:
    found = faults.manager()
    if found is None:
        return "nobody"
    world, router = faults.world, faults.random.choice(faults.world.routers)
    world.network.cut(found[0].machine, router.machine)
    if faults.random.random() < 0.3:
        await faults.pause(HOLD_S + 5.0, HOLD_S + 10.0)  # long enough for both ends to give the session up
    else:
        await faults.pause(0.5, HOLD_S / 2)
    world.network.mend(found[0].machine, router.machine)
    return f"{found[0].name} from {router.machine.name}"


async def reset_sessions(faults: Faults) -> str:
    """A router drops the TCP connections of one replica."""
    router = faults.random.choice(faults.world.routers)
    sessions = [n.session for n in router.neighbours.values() if n.session is not None]
    if sessions:
        faults.random.choice(sessions).reset()
    await faults.pause(0.5, 6.0)
    return router.machine.name


async def barred_by_router(faults: Faults) -> str:
    """A router refuses the sessions of one replica: leadership follows reach."""
    found = faults.manager()
    if found is None:
        return "nobody"
    router, address = faults.random.choice(faults.world.routers), found[0].machine.address
    router.bar(address)
    await faults.pause(0.5, 15.0)
    router.barred.discard(address)
    return f"{found[0].name} by {router.machine.name}"


async def hand_over(faults: Faults) -> str:
    """`porter-ha handover`."""
    world = faults.world
    await world.control.answers()
    key = (NAMESPACE, names.LEASE_NAME)
    lease = world.api.table("leases").get(key)
    if lease is not None:
        asked = {names.HANDOVER_ANNOTATION: str(lease["spec"]["leaseTransitions"])}
        world.api.change("leases", key, {"metadata": {"annotations": asked}})
    await faults.pause(1.0, 6.0)
    return "asked"


async def edited_lease(faults: Faults) -> str:
    """Somebody deletes the Lease, or writes nonsense into it."""
    await faults.world.control.answers()
    api, key = faults.world.api, (NAMESPACE, names.LEASE_NAME)
    if key not in api.table("leases"):
        return "no Lease"
    choice = faults.random.choice(["delete", "stranger", "freed", "lowered"])
    if choice == "delete":
        api.delete("leases", key)
    elif choice == "stranger":
        api.change("leases", key, {"spec": {"holderIdentity": "stranger"}})
    elif choice == "freed":
        api.change("leases", key, {"spec": {"holderIdentity": ""}})
    else:
        api.change("leases", key, {"spec": {"leaseTransitions": 0}})
    await faults.pause(0.5, 6.0)
    return choice


MANAGER_FAULTS: tuple[Fault, ...] = (
    kill_manager,
    kill_manager,
    restart_manager,
    freeze_manager,
    freeze_manager,
    kill_worker,
    resized,
    cut_from_api,
    cut_replicas,
    cut_from_router,
    reset_sessions,
    barred_by_router,
    hand_over,
    kill_all_managers,
    edited_lease,
)


# --- nodes ---------------------------------------------------------------------------------------------------


async def power_cut(faults: Faults) -> str:
    """Of any node; one with a replica counts as the one manager that may be lost."""
    world = faults.world
    node = faults.random.choice(list(world.nodes.values()))
    if node not in world.manager_nodes:
        return await _power_cycle(faults, node)
    async with faults.one_manager:
        return await _power_cycle(faults, node)


async def _power_cycle(faults: Faults, node: Node) -> str:
    faults.world.power_off(node)
    await faults.pause(1.5, 14.0)
    faults.world.power_on(node)
    while not node.serving:
        await asyncio.sleep(0.1)
    await faults.pause(2.0, 4.0)
    return node.name


async def frozen_kubelet(faults: Faults) -> str:
    node = faults.random.choice(list(faults.world.nodes.values()))
    if not node.serving:
        return "nobody"
    faults.world.kubelet(node, False)
    await faults.pause(1.0, 12.0)
    if node.machine.on:
        faults.world.kubelet(node, True)
    return node.name


async def drained(faults: Faults) -> str:
    node = faults.random.choice(list(faults.world.nodes.values()))
    await faults.world.control.answers()
    faults.world.drain(node, True)
    await faults.pause(0.5, 6.0)
    await faults.world.control.answers()
    faults.world.drain(node, False)
    await faults.pause(1.0, 2.0)
    return node.name


NODE_FAULTS: tuple[Fault, ...] = (
    power_cut,
    power_cut,
    frozen_kubelet,
    drained,
)


# --- the API server ------------------------------------------------------------------------------------------


async def api_hangs(faults: Faults) -> str:
    faults.world.control.hang()
    await faults.pause(0.2, 9.0)
    faults.world.control.go_on()
    return "hung"


async def api_refuses(faults: Faults) -> str:
    """The API server is down, and up again with what etcd holds."""
    control = faults.world.control
    control.refusing = True
    faults.world.api.end_watches()
    await faults.pause(0.2, 9.0)
    control.refusing = False
    return "was down"


async def slow_watches(faults: Faults) -> str:
    control = faults.world.control
    control.lag_s = faults.random.uniform(0.1, 1.5)
    await faults.pause(1.0, 6.0)
    control.lag_s = 0.01
    return "watches lagged"


async def torn_watches(faults: Faults) -> str:
    control = faults.world.control
    control.torn = faults.random.uniform(0.02, 0.2)
    await faults.pause(0.5, 4.0)
    control.torn = 0.0
    return "watches were torn"


async def forgotten_history(faults: Faults) -> str:
    faults.world.api.forget(faults.random.choice(["services", "endpointslices", "nodes", "eips", "leases"]))
    await faults.pause(0.1, 2.0)
    return "410 Gone"


async def refused_writes(faults: Faults) -> str:
    """Conflicts, throttling and internal errors."""
    random, share = Random(faults.random.random()), faults.random.uniform(0.1, 0.8)
    errors = [ApiError(409, "Conflict", "simulated"), ApiError(429, "TooManyRequests", "simulated")]
    errors.append(ApiError(500, "InternalError", "simulated"))

    def refuse(request: Request) -> ApiError | None:
        return random.choice(errors) if request.method != "GET" and random.random() < share else None

    faults.world.api.refuse = refuse
    await faults.pause(0.5, 5.0)
    faults.world.api.refuse = lambda request: None
    return f"{share:.0%} of writes refused"


API_FAULTS: tuple[Fault, ...] = (
    api_hangs,
    api_refuses,
    slow_watches,
    torn_watches,
    forgotten_history,
    refused_writes,
)
