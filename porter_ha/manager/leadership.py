"""The gate of a replica: when it may write to the API, and when routers hear its paths (design 2.1-2.3).

API door  Term frames tell shards the epoch and the moment at which writing must stop, whatever else happens.
BGP door  Door frames tell the speaker whether to announce, and with which MED. It stays with the last leader until a
          newer one has announced and the linger is over.

Taking over: open the BGP door, raise the Term (from then on the API server refuses what older terms write), pass the
barrier (everything that was written before has reached us), wait until the old term must have ended if it was cut
short, rebuild the allocator, open the API door.

Must never: open the API door before the barrier; close the BGP door because the API server cannot be reached.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from porter_ha.config import ManagerSettings
from porter_ha.core.handover import Beat, EarlyTakeover
from porter_ha.core.lease import LeaseSettings
from porter_ha.core.planner import med_of
from porter_ha.core.reconciler import Reconciler
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, ApiError, Client, Unreachable
from porter_ha.kube.term import TermStore
from porter_ha.manager.elector import Elector
from porter_ha.manager.link import Link
from porter_ha.manager.supervisor import Worker
from porter_ha.model import names
from porter_ha.model.plan import PeerSettings
from porter_ha.obs.log import log
from porter_ha.protocol import Door, Routes, SessionReport, SetPeers, Term

RETRY_S = 0.5
BARRIER_S = 5.0
FAREWELL_S = 20.0


class Leadership:
    """`settle` waits until the shards have digested all that was watched; `pump` lets effects out; `peers` are the
    sessions to hold; `silent` the nodes that our own probes do not hear."""

    def __init__(
        self,
        settings: ManagerSettings,
        client: Client,
        reconciler: Reconciler,
        shards: list[Worker],
        speaker: Worker,
        *,
        settle: Callable[[], Awaitable[None]],
        pump: Callable[[], None],
        peers: Callable[[], Iterable[PeerSettings]],
        silent: Callable[[], frozenset[str]],
        on_news: Callable[[], None],
    ) -> None:
        lease = LeaseSettings(
            settings.identity, settings.lease_duration_s, settings.lease_renew_s, settings.lease_timeout_s
        )
        self.term = Term(0, 0.0)
        self.acting_epoch = 0
        self.announcing_med = 0
        self.fenced = False
        self.takeover_s = 0.0
        self.warm = False
        self.sessions: dict[str, SessionReport] = {}
        self._settings, self._client, self._reconciler = settings, client, reconciler
        self._shards, self._speaker = shards, speaker
        self._settle, self._pump, self._peers, self._silent = settle, pump, peers, silent
        self._terms = TermStore(client)
        self.elector = Elector(client, settings.namespace, lease, self._terms.read, self._changed)
        address = next(iter(settings.addresses), "")
        self.link = Link(client, settings.namespace, address, settings.link_port, self.beat, self._heard)
        self._on_news = on_news
        self._early = EarlyTakeover()
        self._announcing_epoch = 0
        self._barrier = ""
        self._barrier_event = asyncio.Event()
        self._takeover: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._silenced = asyncio.Event()
        self.dialling = False

    # -- what others see of us

    @property
    def announcing_epoch(self) -> int:
        return self._announcing_epoch

    def beat(self) -> Beat:
        """What the other replicas are told."""
        up = sorted(name for name, report in self.sessions.items() if report.state == "Established")
        return Beat(
            identity=self._settings.identity,
            node=self._settings.node,
            epoch=self.elector.election.epoch,
            leading=self.elector.leading,
            warm=self.warm,
            fenced=self.fenced,
            sessions=tuple(up),
            silent=tuple(sorted(self._silent())),
        )

    # -- life

    def begin(self) -> None:
        """Warm: from now on we may lead."""
        self.warm = True
        self.elector.may_run.set()

    async def run(self) -> None:
        """Take part for ever; the caller cancels."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.elector.run(), name="elector")
            group.create_task(self.link.run(), name="link")

    async def farewell(self) -> None:
        """Stop for good, make before break: release the Lease, wait until a successor has announced and the linger is
        over, then withdraw. Without a successor in FAREWELL_S routes are left to graceful restart."""
        self._shut_api_door()
        await self.elector.resign()
        if self._announcing_epoch and self.link.living():
            try:
                async with asyncio.timeout(FAREWELL_S):
                    await self._silenced.wait()
                    await asyncio.sleep(RETRY_S)  # for the withdrawals to leave
            except TimeoutError:
                log("no successor has announced; leaving routes to graceful restart")

    # -- changes

    def _changed(self) -> None:
        """The Lease moved, was renewed, or ended: open and close doors accordingly."""
        elector = self.elector
        if elector.leading:
            epoch = elector.election.epoch
            if self.acting_epoch == epoch:
                self._tell_term(Term(epoch, elector.election.acting_until))
            elif self._takeover is None or self._takeover.done():
                self._takeover = asyncio.create_task(self._take_over(epoch), name="takeover")
        else:
            self._shut_api_door()
            self._judge_leader()
        self._judge_bgp_door()

    def _heard(self) -> None:
        """News over the link."""
        now = time.monotonic()
        for identity, known in self.link.known.items():
            if not known.dead and not known.silent(now):
                self._early.heard(identity, now)
        if not self.elector.leading:
            self._judge_leader()
        self._on_news()

    def look(self) -> None:
        """Time has passed: silence may have become meaningful. Called after every round of probes."""
        if not self.elector.leading:
            self._judge_leader()

    def _judge_leader(self) -> None:
        election = self.elector.election
        holder = election.holder
        known = self.link.of(holder) if holder else None
        now = time.monotonic()
        if holder and self._early.may_try(self.beat(), known, election.renewed_at, now):
            assert known is not None
            if election.presume_dead(holder):
                log("taking over early", leader=holder, proven=known.dead)
                self._early.took_over(holder, known.dead, now)
            self.elector.wake()
        alone = self.elector.unreachable and not self._announcing_epoch
        if alone and self._early.may_stand_in(self.beat(), known):
            log("the leader is dead and the API server cannot be reached: announcing the last plan", leader=holder)
            self._open_bgp_door(election.seen_epoch, hot=True)

    # -- taking over

    async def _take_over(self, epoch: int) -> None:
        started = time.monotonic()
        self._open_bgp_door(epoch)
        while self._leads(epoch):
            try:
                await self._raise_term(epoch)
                await self._pass_barrier(epoch)
                break
            except (ApiError, Unreachable, TimeoutError) as error:
                log("takeover goes on", epoch=epoch, error=str(error) or "the barrier was not seen in time")
                await asyncio.sleep(RETRY_S)
        # A lagging API server may still admit writes of a term that was cut short: choose nothing new until it is over.
        await asyncio.sleep(max(0.0, self.elector.election.free_from - time.monotonic()))
        if not self._leads(epoch):
            return
        self.acting_epoch = epoch
        self._tell_term(Term(epoch, self.elector.election.acting_until))
        self._reconciler.begin_term(time.monotonic())
        self._pump()
        self.takeover_s = time.monotonic() - started
        log("leading", epoch=epoch, takeover_s=round(self.takeover_s, 3), fenced=self.fenced)

    def _leads(self, epoch: int) -> bool:
        return self.elector.leading and self.elector.election.epoch == epoch

    async def _raise_term(self, epoch: int) -> None:
        try:
            await self._terms.raise_to(epoch)
        except ApiError as error:
            if error.status == 404:
                log("no Term: its kind is not installed, so stale writers are fenced by time only")
                return
            newest = await self._terms.read()
            if newest <= epoch:
                raise
            log("the Term is ahead of the Lease: beginning a later one", epoch=epoch, newest=newest)
            self.elector.election.abandon(newest)
            self.elector.wake()

    async def _pass_barrier(self, epoch: int) -> None:
        """Write a token where our own Service watch will show it: then all older writes have been shown too."""
        path = paths.services(self._settings.namespace)
        token = f"{epoch} {self._settings.identity} {time.monotonic_ns()}"
        meta = {"name": names.BARRIER_SERVICE, "annotations": {names.BARRIER_ANNOTATION: token}}
        try:
            body = {"metadata": {"annotations": meta["annotations"]}}
            await self._client.request(
                "PATCH", f"{path}/{names.BARRIER_SERVICE}", body, content_type=MERGE, timeout_s=2.0
            )
        except ApiError as error:
            if error.status != 404:
                raise
            spec = {"clusterIP": "None", "ports": [{"port": 9, "name": "none"}]}
            await self._client.request(
                "POST", path, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}, timeout_s=2.0
            )
        async with asyncio.timeout(BARRIER_S):
            while self._barrier != token:
                self._barrier_event.clear()
                await self._barrier_event.wait()
        await self._settle()
        key = f"{self._settings.namespace}/{names.BARRIER_SERVICE}"
        self.fenced = await self._terms.fenced(epoch, key)
        if not self.fenced:
            log("the admission policy does not refuse a stale epoch: no early takeover in this term", epoch=epoch)

    def barrier_seen(self, token: str) -> None:
        self._barrier = token
        self._barrier_event.set()

    # -- API door

    def _tell_term(self, term: Term) -> None:
        if term != self.term:
            self.term = term
            for shard in self._shards:
                shard.send(term)

    def _shut_api_door(self) -> None:
        if self.acting_epoch:
            log("no longer leading", epoch=self.acting_epoch)
            self.acting_epoch = 0
            self._reconciler.end_term()
        self._tell_term(Term(0, 0.0))

    # -- BGP door

    def _open_bgp_door(self, epoch: int, hot: bool = False) -> None:
        self._announcing_epoch, self.announcing_med = epoch, med_of(epoch, hot)
        self._reconciler.planner.set_med(self.announcing_med)
        self._speaker.send(Routes(self._reconciler.planner.drain(), complete=True))
        self._speaker.send(Door(True, self.announcing_med))

    def _judge_bgp_door(self) -> None:
        """When to be on the line, and when to fall silent (design 2.2, the reconnect rule, and 2.3)."""
        elector, linger = self.elector, self._settings.linger_s
        replaced = elector.announced_epoch > self._announcing_epoch and (
            elector.announced_epoch >= elector.election.seen_epoch
        )
        waited = time.monotonic() - elector.announced_at
        if replaced and waited < linger:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(linger - waited + 0.01, self._lingered)
        elif replaced and self._announcing_epoch:
            log("a newer leader has announced; withdrawing", epoch=elector.announced_epoch)
            self._announcing_epoch = self.announcing_med = 0
            self._speaker.send(Door(False, 0))
            self._silenced.set()
        dial = self.warm and (bool(self._announcing_epoch) or (replaced and waited >= linger))
        if dial and not self.dialling:
            self.dialling = True
            self._speaker.send(SetPeers(list(self._peers()), True))

    def _lingered(self) -> None:
        self._timer = None
        self._judge_bgp_door()

    def note_sessions(self, reports: Iterable[SessionReport]) -> None:
        """Once every live session has been sent this term's routes, the next renewal records it in the Lease."""
        self.sessions = {report.peer: report for report in reports}
        live = [report for report in self.sessions.values() if report.state == "Established"]
        if self._announcing_epoch and live and all(r.synced_med == self.announcing_med for r in live):
            self.elector.to_announce = max(self.elector.to_announce, self._announcing_epoch)
