"""One seeded run: a cluster comes up, things go wrong, all is healed, and it must have kept its promises."""

import asyncio
import random
from collections.abc import Callable

import msgspec

from porter_ha.obs.log import divert
from porter_ha.testing import checkers, faults, users
from porter_ha.testing.checkers import Checkers, Violation
from porter_ha.testing.faults import Fault, Faults
from porter_ha.testing.loop import SimulatedLoop, current
from porter_ha.testing.world import World

START_S = 15.0
FAULTS_S = 25.0
HEAL_S = 45.0
LOOK_S = 0.5


class Plan(msgspec.Struct, frozen=True):
    """Which faults a run draws from. The default is all of them."""

    managers: tuple[Fault, ...] = faults.MANAGER_FAULTS
    nodes: tuple[Fault, ...] = faults.NODE_FAULTS
    api: tuple[Fault, ...] = faults.API_FAULTS
    users: tuple[Fault, ...] = users.USER_FAULTS
    gap_s: tuple[float, float] = (0.5, 8.0)
    users_gap_s: tuple[float, float] = (0.2, 2.0)


class Report(msgspec.Struct):
    """What a run came to. `takeovers`, `writes` and `changes` say that it was not an idle one."""

    seed: int
    violations: list[Violation]
    unconverged: str
    takeovers: int
    writes: int
    changes: int
    simulated_s: float
    trace: list[str]

    @property
    def ok(self) -> bool:
        return not self.violations and not self.unconverged


def run(seed: int, plan: Plan | None = None, prepare: Callable[[World], None] = lambda world: None) -> Report:
    """The run of this seed. The same seed and PYTHONHASHSEED give the same run."""
    random.seed(seed)
    loop = SimulatedLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_run(loop, seed, plan or Plan(), prepare))
    finally:
        loop.finish()
        divert(None)
        asyncio.set_event_loop(None)


async def _run(loop: SimulatedLoop, seed: int, plan: Plan, prepare: Callable[[World], None]) -> Report:
    draw = random.Random(seed)
    world = World(loop, draw)
    troubles = Faults(world, random.Random(draw.random()))
    judges = Checkers(world, lambda: troubles.disturbed, troubles.unseen)
    takeovers = 0

    def logged(event: str, fields: dict[str, object]) -> None:
        nonlocal takeovers
        takeovers += event == "leading"
        world.say(f"{current():16} {event} {fields or ''}")

    divert(logged)
    prepare(world)
    for _ in range(draw.randint(3, 6)):
        await users.new_service(troubles)
    for node in world.manager_nodes:
        world.start_manager(node)
    if late := await _converged(world, START_S) or await _warm(world, START_S):
        judges.fail("START", late)
    end = loop.time() + FAULTS_S
    chains = [
        troubles.chain(plan.managers, plan.gap_s, end, disturbing=True),
        troubles.chain(plan.nodes, plan.gap_s, end),
        troubles.chain(plan.api, plan.gap_s, end),
        troubles.chain(plan.users, plan.users_gap_s, end),
    ]
    await asyncio.gather(*chains)
    world.say("everything is healed")
    late = await _converged(world, HEAL_S)
    if not late:
        for found in checkers.recomputed(world):
            judges.fail("I8", found)
    for failure in loop.failures:
        judges.fail("DEFECT", failure)
    trace = list(world.trace)  # what comes later is the end of the processes
    return Report(seed, judges.violations, late, takeovers, judges.writes, judges.changes, round(loop.time(), 3), trace)


async def _warm(world: World, limit_s: float) -> str:
    """Wait for the standbys' sessions: they connect once the first term has announced and its linger is over."""
    until = world.loop.time() + limit_s
    while not checkers.warm(world):
        if world.loop.time() > until:
            return "a standby has no session"
        await asyncio.sleep(LOOK_S)
    return ""


async def _converged(world: World, limit_s: float) -> str:
    """Wait until nothing is left to do, twice in a row; says what is left after `limit_s`."""
    until = world.loop.time() + limit_s
    while True:
        await asyncio.sleep(LOOK_S)
        left = checkers.unconverged(world)
        if not left:
            await asyncio.sleep(LOOK_S)
            left = checkers.unconverged(world)
            if not left:
                return ""
        if world.loop.time() > until:
            return left
