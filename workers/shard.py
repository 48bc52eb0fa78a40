"""A shard process: turns the raw objects of its Services into claims, and carries out the effects on them."""

import asyncio
import os
import socket
import time
from collections.abc import Callable

import msgspec

from porter_ha.core.shard import ShardState
from porter_ha.kube.client import Client
from porter_ha.kube.writer import Writer
from porter_ha.model.effects import Assign, ServiceEffect
from porter_ha.model.objects import EndpointSlice, Service
from porter_ha.model.plan import Claim
from porter_ha.obs.log import log
from porter_ha.obs.timings import observe
from porter_ha.protocol import (
    Channel,
    Claims,
    Do,
    Filled,
    Finish,
    Frame,
    FromManager,
    Hello,
    Raw,
    Raws,
    Renew,
    Sync,
    Synced,
    Term,
    Undone,
    Written,
)
from workers.runtime import Counters, Handler, run

_services = msgspec.json.Decoder(Service)
_slices = msgspec.json.Decoder(EndpointSlice)


class Shard:
    def __init__(
        self, channel: Channel, client: Client, hello: Hello, counters: Counters, now: Callable[[], float]
    ) -> None:
        self._channel, self._client, self._counters = channel, client, counters
        self._state = ShardState(hello.classless)
        self._writer = Writer(
            client,
            hello.node,
            hello.in_flight,
            now,
            known=self._state.service,
            recorded=self._recorded,
            written=lambda key, serial: channel.send_soon(Written(key, serial)),
            undone=lambda key: channel.send_soon(Undone([key])),
            finished=self._finished,
            count=self._count,
            took=lambda seconds: observe(counters, "write_seconds", seconds),
        )
        counters.look = self._look
        self._now = now
        self._asking: dict[str, float] = {}  # since when Services want an EIP that they could have
        self._told: dict[str, bytes] = {}  # what a write left, as the first of its answer and the watch told it
        self._waiting: set[str] = set()  # those that were told that there is none for them
        self._filled = False
        self._finishing: asyncio.Task[None] | None = None
        self._leaving: set[str] = set()

    def handle(self, frame: FromManager) -> None:
        if isinstance(frame, Raws):
            for item in frame.items:
                self._digest(item)
            self._tell_claims(self._channel.send)
        elif isinstance(frame, Filled):
            self._filled = True
            self._tell_claims(self._channel.send)
        elif isinstance(frame, Sync):
            self._tell_claims(self._channel.send)
            self._channel.send(Synced(frame.token))
        elif isinstance(frame, Finish):
            self._finishing = asyncio.create_task(self._finish(frame.token))
        elif isinstance(frame, Do):
            self._time_decisions(frame.effects)
            self._writer.do(frame.epoch, frame.effects)
        elif isinstance(frame, Term):
            if self._finishing is None:
                self._writer.set_term(frame.epoch, frame.open_until)
        elif isinstance(frame, Renew):
            self._client.renew(frame.access)

    def _look(self) -> None:
        self._counters["writes_waiting"] = self._writer.depth
        self._counters["oldest_write_seconds"] = self._writer.oldest_s

    async def _finish(self, token: int) -> None:
        await self._writer.finish()
        self._channel.send(Synced(token))

    # -- objects to claims

    def _digest(self, item: Raw) -> None:
        try:
            if item.kind == "Service":
                if self._told.pop(item.service_key, None) == item.raw:
                    return  # to the letter what the answer was
                if self._writer.writing(item.service_key):
                    self._told[item.service_key] = item.raw
                self._state.set_service(item.service_key, _services.decode(item.raw) if item.raw else None)
            else:
                part = _slices.decode(item.raw) if item.raw else None
                self._state.set_slice(item.service_key, item.name, part)
        except msgspec.DecodeError as error:  # one object's odd shape hurts that object only (I9)
            self._count("undecodable_objects")
            log("cannot read object", kind=item.kind, service=item.service_key, name=item.name, error=str(error))

    def _tell_claims(self, tell: Callable[[Frame], None]) -> None:
        if not self._filled:
            return
        changed, gone = self._state.drain()
        self._leaving.difference_update(claim.key for claim in changed)
        self._time(changed, gone)
        left = [key for key in gone if self._writer.forget(key)]
        self._leaving.update(set(gone).difference(left))  # a write is on its way: their addresses are not free yet
        if changed or left:
            tell(Claims(changed, left))

    def _time(self, changed: list[Claim], gone: list[str]) -> None:
        now = self._now()
        for claim in changed:
            if claim.wants and not claim.held and claim.key not in self._waiting:
                self._asking.setdefault(claim.key, now)
            elif (since := self._asking.pop(claim.key, None)) is not None and claim.held:
                observe(self._counters, "assign_seconds", now - since)
        for key in gone:
            self._asking.pop(key, None)
            self._waiting.discard(key)

    def _time_decisions(self, effects: list[ServiceEffect]) -> None:
        """How long a pool is full, or away, is no time of ours: the clock starts anew when there is an EIP."""
        for effect in effects:
            if isinstance(effect, Assign):
                self._waiting.discard(effect.key)
                known = self._state.service(effect.key)
                if known is not None and not known.addresses:  # another address for one that has one is not timed
                    self._asking.setdefault(effect.key, self._now())
            elif effect.refusal is not None:
                self._waiting.add(effect.key)
                self._asking.pop(effect.key, None)

    def _finished(self, key: str) -> None:
        if key in self._leaving:
            self._leaving.discard(key)
            self._channel.send_soon(Claims([], [key]))

    def _recorded(self, key: str, raw: bytes) -> None:
        """What a write of ours left in the API server: news that need not wait for the watch to bring it."""
        raw = raw.rstrip()
        if self._told.pop(key, None) == raw:
            return  # the watch was faster
        try:
            news = self._state.set_written(key, _services.decode(raw))
        except msgspec.DecodeError:
            return  # the watch will bring it
        if news:
            self._told[key] = raw
            self._tell_claims(self._channel.send_soon)

    def _count(self, name: str) -> None:
        self._counters[name] = self._counters.get(name, 0) + 1


async def start(channel: Channel, hello: Hello, counters: Counters) -> Handler:
    assert hello.access is not None, "a shard needs credentials"
    try:  # on a busy machine let others finish their turn, the API server first: there is more to do at once then
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:  # a sandbox may forbid it; all works without
        log("not scheduled as a batch", error=str(error))
    return Shard(channel, Client(hello.access), hello, counters, time.monotonic).handle


def main(sock: socket.socket) -> None:
    run(sock, start)
