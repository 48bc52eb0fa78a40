"""Carries out what core/lease.py decides: reads, watches and writes the Lease, in one task, one request at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from porter_ha.core.lease import Election, LeaseSettings, Read, State, Wait, Write
from porter_ha.kube import paths
from porter_ha.kube.client import ApiError, Client, Unreachable
from porter_ha.kube.lease import Announced, LeaseStore, Seen, seen
from porter_ha.kube.watch import Change, Watch
from porter_ha.model import names
from porter_ha.obs.log import log

RETRY_S = 0.25
YIELD_S = 10.0


class Elector:
    """`floor` gives the epoch that a new Lease must exceed when the old one is lost. `on_change` is called after every
    step that may have changed who acts, until when, or what is announced; `on_withdraw` when this replica is to end its
    sessions for good.

    Takes part only once `may_run` is set: a replica that is not warm could only hold everybody up.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        settings: LeaseSettings,
        now: Callable[[], float],
        floor: Callable[[], Awaitable[int]],
        on_change: Callable[[], None],
        on_withdraw: Callable[[], None],
    ) -> None:
        self.election = Election(settings)
        self.announced = Announced()
        self.announced_at = 0.0
        self.to_announce = Announced()
        self.may_run = asyncio.Event()
        self.unreachable = self.withdrawn = False
        self._store = LeaseStore(client, namespace, settings)
        self._watch = Watch(
            client, paths.leases(namespace), self._watched, {"fieldSelector": f"metadata.name={names.LEASE_NAME}"}
        )
        self._now, self._floor, self._on_change, self._on_withdraw = now, floor, on_change, on_withdraw
        self._wake = asyncio.Event()
        self._reread = False
        self._yielding: asyncio.Task[None] | None = None

    async def use(self, hosts: Iterable[str]) -> None:
        """Where the API servers are."""
        await self._store.use(hosts)

    @property
    def leading(self) -> bool:
        return self.election.state is State.LEADER

    async def run(self) -> None:
        """Take part in the election for ever. Ends by cancellation (see `resign`)."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run(), name="lease watch")
            group.create_task(self._elect(), name="election")

    def wake(self) -> None:
        """Something changed that the next step depends on."""
        self._wake.set()

    async def resign(self) -> None:
        """Give the Lease up for good, as well as it can be done."""
        await self._release(self.election.resign())

    async def _release(self, step: Write | None) -> None:
        if step is None:
            return
        try:
            try:
                await self._store.write(step, "", self._announced())
            except ApiError as error:
                found = await self._store.read() if error.status == 409 else None
                if found is None or found.record.holder != self.election.settings.identity:
                    raise
                # a renewal of ours was on its way: free what it wrote
                await self._store.write(Write(step.epoch, found.record.version, False), "", self._announced())
            log("lease released", epoch=step.epoch)
        except (ApiError, Unreachable) as error:
            log("lease not released; it will expire", error=str(error))

    def _watched(self, changes: list[Change]) -> None:
        for change in changes:
            if change.raw is not None:
                self._saw(seen(change.raw))
            elif change.kind == "DELETED":
                self._reread = True
        self._wake.set()

    def _saw(self, found: Seen) -> None:
        self.election.observed(found.record, self._now())
        if found.announced.epoch > self.announced.epoch:
            self.announced, self.announced_at = found.announced, self._now()
        asked = found.hand_over and found.record.epoch == self.election.epoch  # not by a late event of an older term
        if asked and self.leading:
            log("asked to hand over", epoch=self.election.epoch)
            self.hand_over()
        if found.withdraw and not self.withdrawn:
            log("asked to withdraw everything", epoch=found.record.epoch)
            self.withdrawn = True
            self._on_withdraw()

    def hand_over(self) -> None:
        """Give the Lease up, so that another replica leads."""
        if self._yielding is None:
            self._yielding = asyncio.create_task(self._yield_lease(), name="yield")

    async def _yield_lease(self) -> None:
        """Give the Lease up, and let the others have it."""
        self.election.yield_until(self._now() + YIELD_S)
        await self._release(self.election.release())
        self._yielding = None

    def _announced(self) -> Announced:
        return max(self.announced, self.to_announce, key=lambda a: a.epoch)

    async def _elect(self) -> None:
        election = self.election
        await self.may_run.wait()
        conflicts = 0
        while True:
            now = self._now()
            if election.expired(now):
                log("term ended: the lease was not renewed in time", epoch=election.epoch)
            self._on_change()
            step = Read() if self._reread else election.step(now)
            if isinstance(step, Wait):
                until = min(step.until, election.acting_until) if self.leading else step.until
                await self._sleep(until - self._now())
                continue
            try:
                await (self._read() if isinstance(step, Read) else self._write(step))
                self.unreachable = False
                conflicts = 0 if isinstance(step, Write) else conflicts
            except (ApiError, Unreachable) as error:
                self.unreachable = isinstance(error, Unreachable)
                if isinstance(step, Write):
                    election.failed(self._now())
                self._reread = not self.leading or (isinstance(error, ApiError) and error.status in (404, 409))
                conflict = isinstance(error, ApiError) and error.status == 409
                conflicts += conflict
                if not conflict:
                    log("lease request failed", error=str(error))
                if not conflict or conflicts > 1:  # the first conflict: somebody was faster; then: something is wrong
                    await self._sleep(RETRY_S)

    async def _read(self) -> None:
        found = await self._store.read()
        floor = 0 if found else await self._floor()
        self._reread = False
        if found is None:
            self.election.observed(None, self._now(), floor)
        else:
            self._saw(found)

    async def _write(self, step: Write) -> None:
        self.election.sent(self._now())
        record = await self._store.write(step, self.election.settings.identity, self._announced())
        self.election.written(record, self._now())
        self.announced = self._announced()
        if step.acquire:
            log("lease acquired", epoch=record.epoch)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            pass
