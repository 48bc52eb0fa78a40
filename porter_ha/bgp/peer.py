"""One configured peer of the speaker: dials or is called, holds the session, and sends what its router has not heard.

core/session.py decides, bgp/rib.py knows what is left to say; here are the connection and the clock. Must never close
with a NOTIFICATION when the process merely stops: the router would drop our live routes (design 2.3).
"""

import asyncio
import random
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import msgspec

from porter_ha.bgp.rib import SessionRib
from porter_ha.bgp.transport import CONNECT_TIMEOUT_S, Engaged, unacknowledged
from porter_ha.core.backoff import Backoff
from porter_ha.core.session import Close, Output, Refresh, Send, Session, Up
from porter_ha.model.plan import PeerSettings
from porter_ha.obs.log import log
from porter_ha.protocol import SessionReport

if TYPE_CHECKING:
    from porter_ha.bgp.speaker import Speaker

_CEASE, _DECONFIGURED, _CHANGED = 6, 3, 6
_HIGH_WATER = 1 << 18
DRAIN_LOOK_S = 0.01


def _same_speaker(old: PeerSettings, new: PeerSettings) -> bool:
    """Whether a router would take a session with `new` for a restart of the one with `old`."""
    fields = ("address", "peer_as", "local_as", "router_id", "families")
    return all(getattr(old, field) == getattr(new, field) for field in fields)


class _Superfluous(asyncio.Protocol):
    """A connection that is not needed any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Peer(asyncio.Protocol):
    """One configured peer, and its connection while there is one."""

    def __init__(self, settings: PeerSettings, speaker: "Speaker") -> None:
        self.settings = settings
        self._speaker = speaker
        self._group = speaker.group(settings.group)
        self._session = Session(settings, speaker.wire)
        self._rib: SessionRib | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self._closed = asyncio.Event()
        self._missed_until = 0.0  # how long the router of a passive peer may wait for our call
        self._flushing = self._looking = False
        self._restarting = True  # RFC 4724: our first OPEN tells routers that we are a restart of ourselves
        self._since = time.time()
        self._error = ""
        self._flaps = 0
        self._synced_med = 0
        self._behind_since: float | None = None  # when what the router has not received yet was changed
        self._task = asyncio.create_task(self._run(), name=f"peer {settings.name}")

    # -- life

    async def _run(self) -> None:
        if self.settings.passive:
            await self._await_calls()
        backoff = Backoff(1.0, float(max(1, self.settings.connect_retry_s)), random.random)
        while True:
            await self._speaker.may_dial.wait()
            started = self._speaker.now()
            self._session.connecting()
            if await self._connect():
                await self._closed.wait()
            self._session.lost()
            self._speaker.changed()
            if self._speaker.now() - started > 2 * self.settings.connect_retry_s:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _await_calls(self) -> None:
        """The router calls. One that holds our routes over a restart of ours waits for us to come back, though (RFC
        4724; measured: FRR does not call until the restart time is over), so for that long we call as well."""
        await self._speaker.may_dial.wait()
        self._missed_until = self._speaker.now() + self.settings.restart_time_s
        while True:
            if self._transport is None:
                self._session.waiting()
                self._speaker.changed()
            left = self._missed_until - self._speaker.now()
            try:
                async with asyncio.timeout(float(self.settings.connect_retry_s) if left > 0 else None):
                    await self._closed.wait()
                self._closed.clear()
            except TimeoutError:
                if self._transport is None:
                    await self._connect()

    def answer(self) -> asyncio.Protocol:
        """The router of a passive peer calls. Its newest connection counts: it knows first that an old one is dead, and
        one that restarts gracefully must not wait for our hold timer (RFC 4724 section 5)."""
        if self._transport is not None:
            self._transport.set_protocol(_Superfluous())
            self._down("the router has called anew")
        return self

    async def _connect(self) -> bool:
        self._closed.clear()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                # A passive peer's router may have called meanwhile.
                await self._speaker.dial(self.settings, lambda: self if self._transport is None else _Superfluous())
        except (OSError, ValueError) as error:
            self._session.collided = isinstance(error, Engaged)
            reason = "no answer" if isinstance(error, TimeoutError) else str(error)
            self._down(f"cannot connect to {self.settings.address} port {self.settings.port}: {reason}")
            return False
        return True

    def switch(self, settings: PeerSettings) -> None:
        """Another scope of next hops is no matter of the session: it stays up, and hears the difference."""
        moved = settings.group != self.settings.group
        self.settings = settings
        if moved:
            self._group = self._speaker.group(settings.group)
            if self._rib is not None:
                self._rib.switch(self._group)
                self.flush()

    def remove(self, successor: PeerSettings | None) -> None:
        """The peer is no longer wanted, or not in this shape.

        When the session will come back to the same router as the same speaker, it ends without a word: the router then
        keeps our routes over the change (RFC 4724). Otherwise a NOTIFICATION makes it forget them.
        """
        self._task.cancel()
        if self._transport is None:
            return
        if successor is None:
            self._act(self._session.stop(_CEASE, _DECONFIGURED, "the BgpPeer was deleted"))
        elif self.settings.restart_time_s and successor.restart_time_s and _same_speaker(self.settings, successor):
            self._down("the BgpPeer changed")
        else:
            self._act(self._session.stop(_CEASE, _CHANGED, "the BgpPeer changed"))

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._writable = True
        self._act(self._session.connected(self._speaker.now(), self._restarting))

    def data_received(self, data: bytes) -> None:
        was_quiet = self._session.quiet
        self._act(self._session.received(data, self._speaker.now()))
        if was_quiet:
            self._speaker.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._down(f"connection lost: {exc or 'closed by the router'}")
        self._closed.set()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.flush()

    # -- session

    def _act(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                if self._transport is not None:
                    self._transport.write(output.data)
            elif isinstance(output, Up):
                self._up(output)
            elif isinstance(output, Refresh):
                if self._rib is not None:
                    self._rib.refresh(output.family)
                    self.flush()
            elif isinstance(output, Close):
                self._down(output.error)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            delay = max(0.0, self._session.deadline - self._speaker.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        was_quiet = self._session.quiet
        self._act(self._session.tick(self._speaker.now()))
        if self._session.quiet and not was_quiet:
            log("router is quiet", peer=self.settings.name, router=self.settings.address)
            self._speaker.changed()

    def _up(self, up: Up) -> None:
        self._restarting = False
        self._since, self._error = time.time(), ""
        self._rib = SessionRib(
            self._group, self.settings, up.negotiated, self._speaker.announces(self.settings.name), self._speaker.new
        )
        self._rib.end_initial()
        agreed = msgspec.structs.asdict(up.negotiated)
        log("session up", peer=self.settings.name, router=self.settings.address, **agreed)
        self.flush()
        self._speaker.changed()

    def _down(self, error: str) -> None:
        was_up = self._rib is not None
        transport, self._transport, self._rib = self._transport, None, None
        self._session.lost()
        self._synced_med, self._behind_since = 0, None
        if was_up:
            self._flaps += 1
            self._missed_until = self._speaker.now() + self.settings.restart_time_s
            self._since = time.time()
        if error != self._error:
            log("session down" if was_up else "session not up", peer=self.settings.name, error=error)
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if transport is not None:
            transport.close()
        self._speaker.changed()

    # -- routes

    @property
    def rib(self) -> SessionRib | None:
        return self._rib

    def touch(self, changed: Iterable[str]) -> None:
        """These EIPs are to be said anew."""
        if self._rib is not None:
            self._rib.touch(iter(changed))
            if self._behind_since is None and self._speaker.announces(self.settings.name):
                self._behind_since = self._speaker.now()

    def flush(self) -> None:
        """Send what the router has not heard yet: a batch now, the rest as the connection takes it."""
        if self._rib is None or self._transport is None or not self._writable or not self._speaker.complete:
            return
        data = self._rib.take()
        if data:
            self._transport.write(data)
        loop = asyncio.get_running_loop()
        if not self._rib.idle:
            if not self._flushing:
                self._flushing = True
                loop.call_soon(self._flush_more)
        elif unacknowledged(self._transport):  # "sent" means received; nothing tells when a send queue empties
            if not self._looking:
                self._looking = True
                loop.call_later(DRAIN_LOOK_S, self._look_again)
        else:
            if self._behind_since is not None:
                self._speaker.took(self._speaker.now() - self._behind_since)
                self._behind_since = None
            synced = self._speaker.med if self._speaker.announces(self.settings.name) else 0
            if data or synced != self._synced_med:
                self._synced_med = synced
                self._speaker.changed()

    def _look_again(self) -> None:
        self._looking = False
        self.flush()

    def _flush_more(self) -> None:
        self._flushing = False
        self.flush()

    @property
    def _waits(self) -> str:
        """Why a passive peer has no session yet."""
        if not self.settings.passive or self._rib is not None:
            return ""
        return self._speaker.listener.error or "waiting for the router to dial in"

    def report(self) -> SessionReport:
        rib, negotiated = self._rib, self._session.negotiated if self._rib else None
        return SessionReport(
            peer=self.settings.name,
            state=self._session.state.value,
            since=self._since,
            last_error=self._error or self._waits,
            hold_time_s=negotiated.hold_time_s if negotiated else 0,
            families=list(negotiated.families) if negotiated else [],
            add_path=list(negotiated.add_path) if negotiated else [],
            graceful=bool(negotiated and negotiated.graceful),
            prefixes=rib.prefixes if rib else 0,
            synced_med=self._synced_med,
            flaps=self._flaps,
            quiet=self._session.quiet,
            collided=self._session.collided,
        )
