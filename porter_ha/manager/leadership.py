"""The gate of a replica: when it may write to the API, and when routers hear its paths (design 2.1-2.3).

API door  Term frames tell shards the epoch and the moment at which writing must stop, whatever else happens.
BGP door  See bgp_door.py.

Taking over: open the BGP door, raise the Term (from then on the API server refuses what older terms write), pass the
barrier (everything that was written before has reached us), wait until the old term must have ended if it was cut
short, rebuild the allocator, open the API door.

Must never: open the API door before the barrier, or choose anything new before the old term must have ended.
"""

import asyncio
from collections.abc import Awaitable, Callable

from porter_ha.config import ManagerSettings
from porter_ha.core.admit_bgp import Peers
from porter_ha.core.handover import Beat, Doubt, EarlyTakeover, Known, StepDown, better, left_behind
from porter_ha.core.lease import LeaseSettings
from porter_ha.core.reconciler import Reconciler
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, ApiError, Client, Unreachable
from porter_ha.kube.term import TermStore
from porter_ha.kube.watch import Change, Watch
from porter_ha.manager.bgp_door import BgpDoor
from porter_ha.manager.elector import Elector
from porter_ha.manager.host import Host
from porter_ha.manager.link import Link
from porter_ha.manager.supervisor import Worker
from porter_ha.model import names
from porter_ha.obs.log import log
from porter_ha.protocol import Term

RETRY_S = 0.5
BARRIER_S = 5.0
FAREWELL_S = 20.0
YIELD_S = 1.0


class Leadership:
    """`live` waits until every kind is being watched, `settle` until the shards have digested all that was; `pump` lets
    effects out; `peers` are the sessions to hold; `silent` the nodes that our own probes do not hear, `out` those that
    are kept out for it."""

    def __init__(
        self,
        settings: ManagerSettings,
        host: Host,
        client: Client,
        reconciler: Reconciler,
        shards: list[Worker],
        speaker: Worker,
        *,
        live: Callable[[], Awaitable[None]],
        settle: Callable[[], Awaitable[None]],
        pump: Callable[[], None],
        peers: Callable[[], Peers],
        silent: Callable[[], frozenset[str]],
        out: Callable[[], frozenset[str]],
        on_news: Callable[[], None],
        on_withdraw: Callable[[], None],
    ) -> None:
        lease = LeaseSettings(
            settings.identity, settings.lease_duration_s, settings.lease_renew_s, settings.lease_timeout_s
        )
        self.term = Term(0, 0.0)
        self.acting_epoch = 0
        self.fenced = False
        self.takeover_s = 0.0
        self._settings, self._now, self._client, self._reconciler = settings, host.now, client, reconciler
        self._shards = shards
        self._live, self._settle, self._pump = live, settle, pump
        self._silent, self._out, self._peers = silent, out, peers
        self._terms = TermStore(client)
        self._terms_watch = Watch(client, paths.TERMS, self._terms_changed)
        self.elector = Elector(
            client, settings.namespace, lease, host.now, self._terms.read, self._changed, on_withdraw
        )
        address = next(iter(settings.addresses), "")
        self.link = Link(host, client, settings.namespace, address, settings.link_port, self.beat, self._heard)
        self.bgp = BgpDoor(settings, host.now, reconciler.planner, speaker, self.elector, peers)
        self._on_news = on_news
        self._early = EarlyTakeover()
        self._step_down = StepDown()
        self._let_others = float("-inf")
        self._barrier = ""
        self._barrier_event = asyncio.Event()
        self._takeover: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None

    # -- what others see of us

    @property
    def warm(self) -> bool:
        return self.bgp.warm

    def beat(self) -> Beat:
        """What the other replicas are told."""
        return Beat(
            identity=self._settings.identity,
            node=self._settings.node,
            epoch=self.elector.election.epoch,
            leading=self.elector.leading,
            warm=self.warm,
            fenced=self.fenced,
            sessions=self.bgp.established,
            silent=tuple(sorted(self._silent())),
            out=tuple(sorted(self._out())),
            served=self.bgp.served,
            announcing=self.bgp.epoch,
        )

    def left_behind(self) -> dict[str, float]:
        """Node -> for how many more seconds routers may keep paths of a replica on it that is gone."""
        now, restart_s = self._now(), max((float(p.restart_time_s) for p in self._peers().accepted), default=0.0)
        ends = left_behind(list(self.link.known.values()), self.acting_epoch, restart_s, now)
        return {node: until - now for node, until in ends.items()}

    # -- life

    def begin(self) -> None:
        """Warm: from now on we may lead."""
        self.bgp.warm = True
        self.elector.may_run.set()

    async def run(self) -> None:
        """Take part for ever; the caller cancels."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.elector.run(), name="elector")
            group.create_task(self.link.run(), name="link")
            group.create_task(self._terms_watch.run(), name="terms watch")

    async def farewell(self) -> None:
        """Stop for good, make before break: release the Lease, wait until a successor has announced and the linger is
        over, then withdraw. Without a successor in FAREWELL_S routes are left to graceful restart."""
        self._shut_api_door()
        await self.elector.resign()
        if self.bgp.epoch and self.link.living() and not self.elector.withdrawn:
            try:
                async with asyncio.timeout(FAREWELL_S):
                    await self.bgp.silenced.wait()
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
        self.bgp.judge()

    def _heard(self) -> None:
        """News over the link."""
        now = self._now()
        for identity, known in self.link.known.items():
            if not known.dead and not known.silent(now):
                self._early.heard(identity, now)
        self.look()
        self._on_news()

    def look(self) -> None:
        """Time has passed: silence may have become meaningful. Called after every round of probes."""
        if self.elector.leading:
            self._judge_reach()
        else:
            self._judge_leader()

    def _judge_reach(self) -> None:
        """Let a standby lead that reaches more routers, or sees nodes that we do not."""
        others = [known.beat for known in self.link.living().values()]
        if self.acting_epoch and self._step_down.due(self.beat(), others, self._now()):
            log("a standby reaches more than we do: handing over", epoch=self.acting_epoch)
            self.elector.hand_over()

    def _judge_leader(self) -> None:
        election, now = self.elector.election, self._now()
        holder = election.holder
        known = self.link.of(holder) if holder else None
        me = self.beat()
        doubt = self._doubt(known, now)
        if holder and self._early.may_try(me, known, election.renewed_at, doubt, now):
            assert known is not None
            if election.presume_dead(holder, now if known.dead else float("inf")):
                log("taking over early", leader=holder, proven=known.dead)
                self._early.took_over(holder, known.dead, now)
            self.elector.wake()
        if not holder and election.renewed_at > self._let_others:
            self._let_others = election.renewed_at
            if any(better(other.beat, me) for other in self.link.living().values()):
                election.yield_until(now + YIELD_S)
        # Where early takeover is not safe, and where nobody can be elected, routes can be kept right all the same.
        stuck = self.elector.unreachable or (known is not None and not known.beat.fenced)
        if stuck and not self.bgp.epoch and self._early.may_stand_in(me, known, doubt, now):
            log("the leader is dead and nobody can follow it yet: announcing the last plan", leader=holder)
            self.bgp.open(election.seen_epoch, standing_in=True)
        self.bgp.stand_by(known if known is not None and not known.dead and not known.silent(now) else None)

    def _doubt(self, leader: Known | None, now: float) -> Doubt:
        others = [known for known in self.link.known.values() if known is not leader and not known.dead]
        return Doubt(
            node_dead=leader is not None and leader.beat.node in self._out(),
            isolated=bool(others) and all(known.silent(now) for known in others),
        )

    # -- taking over

    async def _take_over(self, epoch: int) -> None:
        started = self._now()
        self.bgp.open(epoch)
        while self._leads(epoch):
            try:
                await self._raise_term(epoch)
                await self._pass_barrier(epoch)
                break
            except (ApiError, Unreachable, TimeoutError) as error:
                log("takeover goes on", epoch=epoch, error=str(error) or "the barrier was not seen in time")
                await asyncio.sleep(RETRY_S)
        # A lagging API server may still admit writes of a term that was cut short: choose nothing new until it is over,
        # or, of a process that is gone, until none can be on its way any more (docs/adr/0024).
        await asyncio.sleep(max(0.0, self.elector.election.free_from - self._now()))
        if not self._leads(epoch):
            return
        self.acting_epoch = epoch
        self._tell_term(Term(epoch, self.elector.election.acting_until))
        self._reconciler.begin_term(self._now())
        self._pump()
        self.takeover_s = self._now() - started
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

    def _terms_changed(self, changes: list[Change]) -> None:
        """A Term that somebody deleted fences nobody: put it back."""
        gone = any(change.kind == "DELETED" and change.name == names.TERM_NAME for change in changes)
        if gone and self.acting_epoch and (self._restoring is None or self._restoring.done()):
            self._restoring = asyncio.create_task(self._restore_term(self.acting_epoch), name="restore term")

    async def _restore_term(self, epoch: int) -> None:
        while self._leads(epoch):
            try:
                await self._raise_term(epoch)
                log("the Term was deleted; it is back", epoch=epoch)
                return
            except (ApiError, Unreachable) as error:
                log("the Term was deleted and is not back yet", epoch=epoch, error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _pass_barrier(self, epoch: int) -> None:
        """Write a token where our own Service watch will show it: then all older writes have been shown too."""
        path = paths.services(self._settings.namespace)
        token = f"{epoch} {self._settings.identity} {self._now():.6f}"
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
            await self._live()
        await self._settle()
        self.bgp.confirm(epoch)
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
            self._reconciler.end_term(self._now())
        self._tell_term(Term(0, 0.0))
