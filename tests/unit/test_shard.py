"""A shard: how long a Service took to get its EIP is what we took, and not what a full pool did."""

import asyncio

import msgspec
import pytest

from porter_ha.model.effects import Assign, Explain
from porter_ha.model.plan import Refusal
from porter_ha.model.reasons import Reason
from porter_ha.protocol import Claims, Do, Filled, Hello, Raw, Raws, Term, Written
from workers.runtime import Counters
from workers.shard import Shard

KEY = "default/web"


class Manager:
    """The other end of the channel, and an API server that writes what it is told."""

    def __init__(self):
        self.frames, self.version = [], 1

    def send(self, frame):
        self.frames.append(frame)

    send_soon = send

    def service(self, eip=""):
        self.version += 1
        return msgspec.json.encode({
            "metadata": {
                "name": "web",
                "namespace": "default",
                "uid": "uid",
                "resourceVersion": str(self.version),
                "annotations": {"lb.kubesphere.io/v1alpha1": "porter", "porter-ha.io/eips": eip},
            },
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": eip}] if eip else []}},
        })  # fmt: skip

    async def request(self, method, path, body, **_):
        ingress = body["status"].get("loadBalancer", {}).get("ingress") or []
        return self.service(ingress[0]["ip"] if ingress else "")


def took(*story):
    """Seconds that were observed until the EIP was there; the story is of effects, and of seconds that pass."""

    async def work():
        manager, counters, now = Manager(), Counters(), [100.0]
        shard = Shard(manager, manager, Hello("shard", 0, "node1", False, 8, None), counters, lambda: now[0])
        shard.handle(Term(1, float("inf")))
        shard.handle(Filled())
        shard.handle(Raws([Raw("Service", KEY, "web", manager.service())]))
        for step in story:
            if isinstance(step, float):
                now[0] += step
            else:
                shard.handle(Do(1, [step]))
                await asyncio.sleep(0.01)
        return counters.get("assign_seconds sum")

    return asyncio.run(work())


ASSIGN = Assign(KEY, "uid", ("10.0.0.1",), "pool")
FULL = Explain(KEY, "uid", Refusal(Reason.POOL_EXHAUSTED, "full"))


def test_the_clock_runs_from_the_news_to_the_answer():
    assert took(0.25, ASSIGN) == pytest.approx(0.25)


def test_what_a_pool_was_full_for_is_not_counted():
    assert took(0.25, FULL, 3600.0, ASSIGN) == pytest.approx(0.0)


def test_what_is_written_over_an_eip_that_is_there_is_not_counted_when_something_else_changes():
    again = Assign(KEY, "uid", ("10.0.0.1",), "pool", serial=1)  # an overruling write: status shows it already
    moved = Assign(KEY, "uid", ("10.0.0.2",), "pool")
    assert took(0.25, ASSIGN, again, 3600.0, moved) == pytest.approx(0.25)


def test_nothing_is_counted_of_what_never_came():
    assert took(0.25, FULL, 3600.0) is None


def test_a_write_is_news_once_whichever_of_its_answer_and_the_watch_is_first():
    async def work(watch_first):
        manager, decoded = Manager(), []
        gate = asyncio.Event()
        before, written = manager.service(), manager.service("10.0.0.1")

        async def request(method, path, body, **_):
            if method == "PATCH":
                await gate.wait()
            return written + b"\n"

        manager.request = request
        shard = Shard(manager, manager, Hello("shard", 0, "node1", False, 8, None), Counters(), lambda: 100.0)
        shard._state.set_service = lambda key, service, known=shard._state.set_service: (
            decoded.append(service.addresses),
            known(key, service),
        )
        shard.handle(Term(1, float("inf")))
        shard.handle(Filled())
        shard.handle(Raws([Raw("Service", KEY, "web", before)]))
        shard.handle(Do(1, [ASSIGN]))
        await asyncio.sleep(0.01)
        if watch_first:
            shard.handle(Raws([Raw("Service", KEY, "web", written)]))
        gate.set()
        await asyncio.sleep(0.01)
        if not watch_first:
            shard.handle(Raws([Raw("Service", KEY, "web", written)]))
        held = [claim.held for frame in manager.frames if isinstance(frame, Claims) for claim in frame.changed]
        return held, len(decoded)

    assert asyncio.run(work(watch_first=True)) == ([(), ("10.0.0.1",)], 2)
    assert asyncio.run(work(watch_first=False)) == ([(), ("10.0.0.1",)], 1)


def test_an_overruling_write_is_confirmed_after_the_claim_that_came_of_it():
    async def work():
        manager = Manager()
        shard = Shard(manager, manager, Hello("shard", 0, "node1", False, 8, None), Counters(), lambda: 100.0)
        shard.handle(Term(1, float("inf")))
        shard.handle(Filled())
        shard.handle(Raws([Raw("Service", KEY, "web", manager.service())]))
        shard.handle(Do(1, [Assign(KEY, "uid", ("10.0.0.1",), "pool", serial=7)]))
        await asyncio.sleep(0.01)
        return manager.frames[-2:]

    claims, written = asyncio.run(work())
    assert [claim.held for claim in claims.changed] == [("10.0.0.1",)]
    assert written == Written(KEY, 7)
