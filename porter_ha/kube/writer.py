"""Writes of a shard to its Services: in parallel, one at a time per Service, the newest wish winning.

What a user's change asks for goes before what a new term or an edited pool brings up again, and events go last: they
are a courtesy (the condition says the same), so their queue is bounded and they wait while there is anything to assign.
How many requests are in flight follows the API server's own signals (core/pace.py).

Each write checks the API door just before it leaves: the term must be the one that decided it, and the clock must be
before the term's end. It names the resourceVersion that we know: one that was given up for lost and arrives after all
changes nothing any more once a later one, ours or a user's, was carried out.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine

from porter_ha.core.backoff import Backoff
from porter_ha.core.pace import Pace
from porter_ha.kube import paths, status
from porter_ha.kube.client import STRATEGIC, ApiError, Client, Unreachable
from porter_ha.model import names
from porter_ha.model.effects import Assign, Explain, Relinquish, ServiceEffect
from porter_ha.model.objects import Service
from porter_ha.model.reasons import Reason
from porter_ha.obs.log import log

TIMEOUT_S = 5.0
EVENTS_KEPT = 1000
EVENTS_AT_ONCE = 2
EVENT_QUIET_S = 0.5  # events flow once no Service was written for so long
EVENT_PERIOD_S = 0.5  # and one at a time in such a period while Services are being written
UNCHECKED = {"fieldValidation": "Ignore"}  # measured: looking for fields it does not know is 8 % of a status write
LOOK_S = 0.1  # how often to look whether what waits for time to pass may go


class Writer:
    """`known` gives a Service as the shard knows it, `recorded` takes one as the API server has stored it, `written` is
    told of an effect's serial number once it is carried out, `undone` of Services whose effect was given up because the
    door is closed, `finished` of those that have no write on its way any more, `took` of how long each write took."""

    def __init__(
        self,
        client: Client,
        reporter: str,
        in_flight: int,
        now: Callable[[], float],
        *,
        known: Callable[[str], Service | None],
        recorded: Callable[[str, bytes], None],
        written: Callable[[str, int], None],
        undone: Callable[[str], None],
        finished: Callable[[str], None],
        count: Callable[[str], None],
        took: Callable[[float], None],
    ) -> None:
        self.pace = Pace(in_flight)
        self._client, self._reporter, self._now = client, reporter, now
        self._known, self._recorded, self._undone, self._count = known, recorded, undone, count
        self._written, self._finished, self._took = written, finished, took
        self._epoch, self._open_until = 0, 0.0
        self._wishes: dict[str, tuple[int, ServiceEffect]] = {}
        self._since: dict[str, float] = {}  # when each of them that is not written yet came up, the oldest first
        self._lanes: tuple[dict[str, None], dict[str, None]] = ({}, {})  # keys to write: users' changes, the rest
        self._busy: set[str] = set()
        self._backoffs: dict[str, Backoff] = {}  # of keys whose last write failed
        self._resting: set[str] = set()  # those that wait for their next try, in no lane
        self._events: deque[tuple[ServiceEffect, str, str, bool]] = deque()
        self._events_in_flight = 0
        self._wrote_at = self._event_at = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def depth(self) -> int:
        """Services that wait to be written."""
        return len(self._wishes)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them has waited."""
        return self._now() - next(iter(self._since.values())) if self._since else 0.0

    def set_term(self, epoch: int, open_until: float) -> None:
        self._epoch, self._open_until = epoch, open_until

    def do(self, epoch: int, effects: list[ServiceEffect]) -> None:
        for effect in effects:
            self._wishes[effect.key] = (epoch, effect)
            self._since.setdefault(effect.key, self._now())
            self._enqueue(effect)
        self._pump()

    def forget(self, key: str) -> bool:
        """Nothing is to be written to the Service any more. Returns whether nothing is on its way either."""
        self._wishes.pop(key, None)
        for lane in self._lanes:
            lane.pop(key, None)
        self._settled(key)
        self._resting.discard(key)
        return key not in self._busy

    def writing(self, key: str) -> bool:
        """Whether a write to the Service is on its way."""
        return key in self._busy

    async def finish(self) -> None:
        """Close the door, and wait for what has left. What has not is given up; events that still wait are dropped."""
        self.set_term(0, 0.0)
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    # -- what is next

    def _enqueue(self, effect: ServiceEffect) -> None:
        if effect.key not in self._busy and effect.key not in self._resting:
            users, rest = self._lanes
            if not effect.resync:
                rest.pop(effect.key, None)
                users[effect.key] = None
            elif effect.key not in users:
                rest[effect.key] = None

    def _pump(self) -> None:
        """Begin what may be begun now."""
        now = self._now()
        while len(self._busy) < int(self.pace.limit) and now >= self.pace.not_before:
            lane = next((lane for lane in self._lanes if lane), None)
            if lane is None:
                break
            key = next(iter(lane))
            del lane[key]
            self._busy.add(key)
            self._wrote_at = now
            self._begin(self._serve(key, *self._wishes.pop(key)))
        self._pump_events(now)
        if self._timer is None and (self._events or any(self._lanes)):
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._later)

    def _later(self) -> None:
        self._timer = None
        self._pump()

    def _pump_events(self, now: float) -> None:
        quiet = not self._busy and now - self._wrote_at >= EVENT_QUIET_S
        due = quiet or now - self._event_at >= EVENT_PERIOD_S
        while self._events and due and self._events_in_flight < EVENTS_AT_ONCE and now >= self.pace.not_before:
            self._event_at, due = now, quiet
            self._events_in_flight += 1
            self._begin(self._post(*self._events.popleft()))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one Service

    async def _serve(self, key: str, epoch: int, effect: ServiceEffect) -> None:
        try:
            if self._may(epoch):
                await self._write(epoch, effect)
                self._settled(key)
                if not isinstance(effect, Relinquish) and effect.serial:
                    self._written(key, effect.serial)
            else:
                self._settled(key)
                self._undone(key)
        except ApiError as error:
            if error.status == 429:
                self.pace.refused(error.retry_after_s, self._now())
            if error.status == 404 or (error.status == 409 and self._replaced(effect)):
                self._settled(key)  # the watch will say, or has said
            else:
                if error.status != 409:  # somebody else was faster: what they wrote is on its way to us
                    self._count("write_errors")
                    log("write refused", service=key, error=str(error))
                self._again(key, epoch, effect)
        except Unreachable:
            self._count("write_errors")
            self._again(key, epoch, effect)
        finally:
            self._busy.discard(key)
        if key in self._wishes:
            self._since.setdefault(key, self._now())
            self._enqueue(self._wishes[key][1])
        else:
            self._finished(key)
        self._pump()

    def _settled(self, key: str) -> None:
        self._backoffs.pop(key, None)
        self._since.pop(key, None)

    def _again(self, key: str, epoch: int, effect: ServiceEffect) -> None:
        """Later, unless another wish has come."""
        self._wishes.setdefault(key, (epoch, effect))
        backoff = self._backoffs.setdefault(key, Backoff(0.05, 5.0, random.random))
        self._resting.add(key)
        asyncio.get_running_loop().call_later(backoff.next(), self._retry, key)

    def _retry(self, key: str) -> None:
        self._resting.discard(key)
        if key in self._wishes and key not in self._busy:
            self._lanes[self._wishes[key][1].resync][key] = None
            self._pump()

    def _may(self, epoch: int) -> bool:
        return epoch == self._epoch and self._now() < self._open_until

    def _replaced(self, effect: ServiceEffect) -> bool:
        """Whether the name belongs to another Service by now, or to none. Else a conflict was one of versions."""
        service = self._known(effect.key)
        return service is None or service.metadata.uid != effect.uid

    async def _write(self, epoch: int, effect: ServiceEffect) -> None:
        service = self._known(effect.key)
        version = service.metadata.resource_version if service is not None else ""
        if isinstance(effect, Assign):
            body = status.service_assigned(effect.uid, version, epoch, effect.addresses)
        elif isinstance(effect, Relinquish):
            body = status.service_relinquished(effect.uid, version, epoch, effect.refusal)
        else:
            if self._said(effect):
                return
            body = status.service_refused(effect.uid, version, epoch, effect.refusal)
        began = self._now()
        left = min(TIMEOUT_S, self._open_until - began)
        path = paths.service(effect.key) + "/status"
        answer = await self._client.request(
            "PATCH", path, body, params=UNCHECKED, content_type=STRATEGIC, timeout_s=left
        )
        took = self._now() - began
        self.pace.answered(took, self._now())
        self._took(took)
        self._count("status_writes")
        self._recorded(effect.key, answer)
        if not isinstance(effect, Assign):
            if effect.refusal is not None:
                self._event(effect, effect.refusal.reason, effect.refusal.message, warning=True)
        else:
            text = f"assigned {', '.join(effect.addresses)} from Eip {effect.pool or '(deleted)'}"
            self._event(effect, Reason.ASSIGNED, text, warning=False)

    def _said(self, effect: Explain) -> bool:
        """Whether the Service's condition says this already (a new leader need not repeat it)."""
        service = self._known(effect.key)
        conditions = service.status.conditions or () if service is not None else ()
        return any(
            c.type == names.CONDITION_ASSIGNED
            and (c.status, c.reason, c.message) == ("False", effect.refusal.reason, effect.refusal.message)
            for c in conditions
        )

    # -- events

    def _event(self, effect: ServiceEffect, reason: str, message: str, *, warning: bool) -> None:
        if len(self._events) >= EVENTS_KEPT:
            self._events.popleft()
            self._count("events_dropped")
        self._events.append((effect, reason, message, warning))

    async def _post(self, effect: ServiceEffect, reason: str, message: str, warning: bool) -> None:
        namespace, _, name = effect.key.partition("/")
        involved = {"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": effect.uid}
        try:
            await status.post_event(self._client, involved, reason, message, warning=warning, reporter=self._reporter)
        except (ApiError, Unreachable) as error:
            self._count("event_errors")
            log("event not written", service=effect.key, error=str(error))
        self._events_in_flight -= 1
        self._pump()
