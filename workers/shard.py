"""A shard process: turns the raw objects of its Services into claims, and carries out the effects on them.

Writes go out in parallel, one at a time per Service, the newest wish winning. Each checks the API door just before
it leaves: the term must be the one that decided it, and the clock must be before the term's end.
"""

import asyncio
import random
import socket
import time
from collections.abc import Callable

import msgspec

from porter_ha.core.backoff import Backoff
from porter_ha.core.shard import ShardState
from porter_ha.kube import paths, status
from porter_ha.kube.client import IN_FLIGHT, STRATEGIC, ApiError, Client, Unreachable
from porter_ha.model import names
from porter_ha.model.effects import Assign, Explain, Relinquish, ServiceEffect
from porter_ha.model.objects import EndpointSlice, Service
from porter_ha.model.reasons import Reason
from porter_ha.obs.log import log
from porter_ha.protocol import (
    Channel,
    Claims,
    Do,
    Filled,
    FromManager,
    Hello,
    Raw,
    Raws,
    Renew,
    Sync,
    Synced,
    Term,
    Undone,
)
from workers.runtime import Counters, Handler, run

WRITE_TIMEOUT_S = 5.0
_services = msgspec.json.Decoder(Service)
_slices = msgspec.json.Decoder(EndpointSlice)


class Shard:
    def __init__(
        self, channel: Channel, client: Client, hello: Hello, counters: Counters, now: Callable[[], float]
    ) -> None:
        self._channel, self._client, self._node, self._counters = channel, client, hello.node, counters
        self._now = now
        self._state = ShardState(hello.classless)
        self._term = Term(0, 0.0)
        self._wishes: dict[str, tuple[int, ServiceEffect]] = {}
        self._busy: set[str] = set()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._filled = False

    async def handle(self, frame: FromManager) -> None:
        if isinstance(frame, Raws):
            for item in frame.items:
                self._digest(item)
            self._tell_claims()
        elif isinstance(frame, Filled):
            self._filled = True
            self._tell_claims()
        elif isinstance(frame, Sync):
            self._tell_claims()
            self._channel.send(Synced(frame.token))
        elif isinstance(frame, Do):
            for effect in frame.effects:
                self._wishes[effect.key] = (frame.epoch, effect)
                self._begin(effect.key)
        elif isinstance(frame, Term):
            self._term = frame
        elif isinstance(frame, Renew):
            self._client.renew(frame.access)

    # -- objects to claims

    def _digest(self, item: Raw) -> None:
        try:
            if item.kind == "Service":
                self._state.set_service(item.service_key, _services.decode(item.raw) if item.raw else None)
            else:
                part = _slices.decode(item.raw) if item.raw else None
                self._state.set_slice(item.service_key, item.name, part)
        except msgspec.DecodeError as error:  # one object's odd shape hurts that object only (I9)
            self._count("undecodable_objects")
            log("cannot read object", kind=item.kind, service=item.service_key, name=item.name, error=str(error))

    def _tell_claims(self) -> None:
        if not self._filled:
            return
        changed, gone = self._state.drain()
        if changed or gone:
            self._channel.send(Claims(changed, gone))

    # -- effects to writes

    def _begin(self, key: str) -> None:
        if key not in self._busy:
            self._busy.add(key)
            task = asyncio.create_task(self._work(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, key: str) -> None:
        backoff = Backoff(0.05, 5.0, random.random)
        async with self._slots:
            while key in self._wishes:
                epoch, effect = self._wishes.pop(key)
                if not self._open(epoch):
                    self._channel.send(Undone([key]))
                    continue
                try:
                    await self._write(epoch, effect)
                    backoff.reset()
                except ApiError as error:
                    if error.status == 404 or (error.status == 409 and self._replaced(effect)):
                        continue  # the watch will say, or has said
                    self._count("write_errors")
                    log("write refused", service=key, error=str(error))
                    await self._again(key, epoch, effect, backoff)
                except Unreachable:
                    self._count("write_errors")
                    await self._again(key, epoch, effect, backoff)
        self._busy.discard(key)
        if key in self._wishes:
            self._begin(key)

    async def _again(self, key: str, epoch: int, effect: ServiceEffect, backoff: Backoff) -> None:
        await asyncio.sleep(backoff.next())
        self._wishes.setdefault(key, (epoch, effect))

    def _replaced(self, effect: ServiceEffect) -> bool:
        """Whether the name belongs to another Service by now, or to none. Else a conflict was one of many writers."""
        service = self._state.service(effect.key)
        return service is None or service.metadata.uid != effect.uid

    def _open(self, epoch: int) -> bool:
        return epoch == self._term.epoch and self._now() < self._term.open_until

    async def _write(self, epoch: int, effect: ServiceEffect) -> None:
        path = paths.service(effect.key) + "/status"
        left = min(WRITE_TIMEOUT_S, self._term.open_until - self._now())
        if isinstance(effect, Assign):
            body = status.service_assigned(effect.uid, epoch, effect.addresses)
        elif isinstance(effect, Relinquish):
            body = status.service_relinquished(effect.uid, epoch)
        else:
            if self._said(effect):
                return
            body = status.service_refused(effect.uid, epoch, effect.refusal)
        await self._client.request("PATCH", path, body, content_type=STRATEGIC, timeout_s=left)
        self._count("status_writes")
        if isinstance(effect, Explain):
            await self._event(effect, effect.refusal.reason, effect.refusal.message, warning=True)
        elif isinstance(effect, Assign):
            text = f"assigned {', '.join(effect.addresses)} from Eip {effect.pool or '(deleted)'}"
            await self._event(effect, Reason.ASSIGNED, text, warning=False)

    def _said(self, effect: Explain) -> bool:
        """Whether the Service's condition says this already (a new leader need not repeat it)."""
        service = self._state.service(effect.key)
        conditions = service.status.conditions or () if service is not None else ()
        return any(
            c.type == names.CONDITION_ASSIGNED
            and (c.status, c.reason, c.message) == ("False", effect.refusal.reason, effect.refusal.message)
            for c in conditions
        )

    async def _event(self, effect: ServiceEffect, reason: str, message: str, *, warning: bool) -> None:
        namespace, _, name = effect.key.partition("/")
        involved = {"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": effect.uid}
        try:
            await status.post_event(self._client, involved, reason, message, warning=warning, reporter=self._node)
        except (ApiError, Unreachable) as error:  # the condition says the same; an event is a courtesy
            self._count("event_errors")
            log("event not written", service=effect.key, error=str(error))

    def _count(self, name: str) -> None:
        self._counters[name] = self._counters.get(name, 0) + 1


async def start(channel: Channel, hello: Hello, counters: Counters) -> Handler:
    assert hello.access is not None, "a shard needs credentials"
    return Shard(channel, Client(hello.access), hello, counters, time.monotonic).handle


def main(sock: socket.socket) -> None:
    run(sock, start)
