"""Bugs that are planted to see the checkers bite: each takes away one safeguard of design 2, as an edit would.

A bug comes with the faults that it is a safeguard against, and with what must be seen: a bug that is caught by accident
of something else proves nothing.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

import msgspec

from porter_ha.bgp.speaker import Speaker
from porter_ha.core import planner
from porter_ha.core.handover import HotPeers, StepDown
from porter_ha.core.liveness import Liveness
from porter_ha.core.reconciler import Reconciler
from porter_ha.kube import status
from porter_ha.kube.client import ApiError
from porter_ha.kube.term import TermStore
from porter_ha.kube.writer import Writer
from porter_ha.manager import bgp_door
from porter_ha.manager.bgp_door import BgpDoor
from porter_ha.manager.elector import Elector
from porter_ha.manager.leadership import Leadership
from porter_ha.manager.replica import Replica
from porter_ha.testing import faults, users
from porter_ha.testing.simulate import Plan
from porter_ha.testing.world import World

CHURN = (users.new_service, users.old_service)
NEVER_DONE = "never done"  # no checker: the run does not come to an end
QUIET = Plan(managers=(), nodes=(), api=(), gap_s=(0.5, 3.0), users_gap_s=(0.1, 0.6))


class Bug(msgspec.Struct):
    """`expect` are the checkers of which at least one must see it, in one of `seeds` runs. `sabotage` changes the world
    of the runs with the bug only; `prepare` also that of the runs without it, in which nothing must be seen."""

    name: str
    plant: Callable[[], AbstractContextManager[Any]]
    expect: set[str]
    plan: Plan
    prepare: Callable[[World], None] = lambda world: None
    sabotage: Callable[[World], None] = lambda world: None
    seeds: int = 12


# --- faults that some bugs need --------------------------------------------------------------------------------


async def writes_in_flight(troubles: faults.Faults) -> str:
    """The leader is cut off from the API server with writes on their way: what the network holds arrives at the end,
    long after another leads."""
    world, leader = troubles.world, troubles.world.leader()
    if leader is None:
        return "nobody leads"
    node = next(n for n in world.manager_nodes if world.managers.get(n.name) is leader)
    throttled = ApiError(429, "TooManyRequests", "simulated")
    world.api.refuse = lambda r: throttled if (r.plural, r.sub) == ("services", "status") else None
    for _ in range(4):
        await users.new_service(troubles)
    await asyncio.sleep(0.2)
    world.network.cut(node.machine, world.control.machine)
    await asyncio.sleep(0.1)
    world.api.refuse = lambda r: None
    await troubles.pause(8.0, 10.0)
    world.network.mend(node.machine, world.control.machine)
    await troubles.pause(2.0, 3.0)
    return node.name


async def frozen_manager_process(troubles: faults.Faults) -> str:
    """The leader's manager process stands still while its shards still try to write."""
    world, leader = troubles.world, troubles.world.leader()
    if leader is None:
        return "nobody leads"
    throttled = ApiError(429, "TooManyRequests", "simulated")
    world.api.refuse = lambda r: throttled if (r.plural, r.sub) == ("services", "status") else None
    for _ in range(4):
        await users.new_service(troubles)
    await asyncio.sleep(0.2)
    leader.process.stop()
    await troubles.pause(8.0, 10.0)
    world.api.refuse = lambda r: None
    leader.process.cont()
    await troubles.pause(2.0, 3.0)
    return leader.process.name


# --- the bugs --------------------------------------------------------------------------------------------------


def no_barrier():
    """A new leader does not wait until it has seen what was written before it led."""

    async def pass_barrier(self, epoch):
        self.bgp.confirm(epoch)

    return patch.object(Leadership, "_pass_barrier", pass_barrier)


def late_services(world: World) -> None:
    world.control.behind_s["services"] = 0.5


def no_fence():
    """Nothing refuses a stale leader's writes, and nobody checks that something does. They name no version either: by
    that alone the server refuses those that matter, and no checker sees that the fence is missing."""

    async def fenced(self, epoch, service_key):
        return True

    meta = status._meta

    def blind(uid, version, epoch, **annotations):
        return meta(uid, "", epoch, **annotations)

    stack = ExitStack()
    stack.enter_context(patch.object(TermStore, "fenced", fenced))
    stack.enter_context(patch.object(status, "_meta", blind))
    return stack


def with_policy(world: World) -> None:
    world.api.fenced = True


def without_policy(world: World) -> None:
    world.api.fenced = False


def gate_by_wall_clock():
    """The API door trusts a clock that has been set back."""
    return patch.object(Writer, "_may", lambda self, epoch: epoch == self._epoch)


def med_not_lowered():
    return patch.object(bgp_door, "med_of", lambda epoch, standing_in=False: planner.MED_BASE - 2)


def withdraw_before_handover():
    """Break before make: a leader that hands over falls silent first."""
    hand_over, resign = Elector.hand_over, Elector.resign
    doors: dict[int, BgpDoor] = {}
    made = BgpDoor.__init__

    def remember(self, settings, now, plan, speaker, elector, peers):
        made(self, settings, now, plan, speaker, elector, peers)
        doors[id(elector)] = self

    def silent_hand_over(self):
        doors[id(self)]._close()
        hand_over(self)

    async def silent_resign(self):
        doors[id(self)]._close()
        await resign(self)

    stack = ExitStack()
    stack.enter_context(patch.object(BgpDoor, "__init__", remember))
    stack.enter_context(patch.object(Elector, "hand_over", silent_hand_over))
    stack.enter_context(patch.object(Elector, "resign", silent_resign))
    return stack


def early_empty_end_of_rib():
    """A replica that comes back dials at once, and says that it has told everything."""
    frames, apply = BgpDoor.frames, Speaker.apply

    def early(self):
        self.dialling = True
        return frames(self)

    stack = ExitStack()
    stack.enter_context(patch.object(BgpDoor, "frames", early))
    stack.enter_context(patch.object(Speaker, "apply", lambda self, announces, complete: apply(self, announces, True)))
    return stack


def allocator_not_rebuilt():
    return patch.object(Reconciler, "_adopt", lambda self, claim: None)


def one_witness_is_enough():
    judge = Liveness.judge
    return patch.object(Liveness, "judge", lambda self, witnesses, now: judge(self, {}, now))


def rejoins_at_the_first_answer():
    """A node that answers pings again is a next hop again, whatever its agent and kube-proxy say."""
    return patch("porter_ha.manager.rejoin.Rejoin.returned", lambda self, names: None)


def leadership_ignores_reach():
    """A leader that is cut off from a router stays, and no standby serves that router."""
    stack = ExitStack()
    stack.enter_context(patch.object(StepDown, "due", lambda self, me, others, now: False))
    stack.enter_context(patch.object(HotPeers, "update", lambda self, sessions, served, now: frozenset()))
    return stack


def rebalanced_shards_are_not_filled():
    """Shards that take others' places wait for ever for what exists."""

    async def refill(self, workers):
        return

    return patch.object(Replica, "_refill", refill)


BUGS = [
    Bug(
        "no_barrier",
        no_barrier,
        {"I1", "I2"},
        msgspec.structs.replace(QUIET, managers=(faults.hand_over,), users=CHURN),
        late_services,
    ),
    Bug(
        "no_fence",
        no_fence,
        {"I1", "I2", "FENCE"},
        msgspec.structs.replace(QUIET, managers=(writes_in_flight,), users=CHURN),
        with_policy,
        without_policy,
    ),
    Bug(
        "gate_by_wall_clock",
        gate_by_wall_clock,
        {"GATE"},
        msgspec.structs.replace(QUIET, managers=(frozen_manager_process,), users=(users.new_service,)),
    ),
    Bug(
        "med_not_lowered",
        med_not_lowered,
        {"I4", "I5"},
        msgspec.structs.replace(
            QUIET, managers=(faults.freeze_manager, faults.kill_manager), nodes=(faults.power_cut,)
        ),
    ),
    Bug(
        "withdraw_before_handover",
        withdraw_before_handover,
        {"I3"},
        msgspec.structs.replace(QUIET, managers=(faults.hand_over, faults.restart_manager), users=()),
    ),
    Bug(
        "early_empty_end_of_rib",
        early_empty_end_of_rib,
        {"I3"},
        msgspec.structs.replace(QUIET, managers=(faults.kill_all_managers,), users=()),
    ),
    Bug(
        "allocator_not_rebuilt",
        allocator_not_rebuilt,
        {"I1", "I2"},
        msgspec.structs.replace(QUIET, managers=(faults.kill_manager,), users=CHURN),
    ),
    Bug(
        "one_witness_is_enough",
        one_witness_is_enough,
        {"I4"},
        msgspec.structs.replace(QUIET, managers=(faults.cut_replicas,), users=(), gap_s=(10.0, 12.0)),
    ),
    Bug(
        "rejoins_at_the_first_answer",
        rejoins_at_the_first_answer,
        {"I5"},
        msgspec.structs.replace(QUIET, nodes=(faults.power_cut,), users=()),
    ),
    Bug(
        "leadership_ignores_reach",
        leadership_ignores_reach,
        {"I3"},
        msgspec.structs.replace(QUIET, managers=(faults.cut_from_router,), users=()),
    ),
    Bug(
        "rebalanced_shards_are_not_filled",
        rebalanced_shards_are_not_filled,
        {NEVER_DONE},
        msgspec.structs.replace(QUIET, managers=(faults.resized,), users=CHURN),
    ),
]
