"""One manager replica, put together: inputs -> shards -> reconciler -> gate -> shards and speaker.

Leader and standby run the same wiring; what differs is which doors of the gate are open (design 2.1):
  API door  Term frames tell shards the epoch and the moment at which writing must stop, whatever else happens.
  BGP door  Door frames tell the speaker whether routers hear our paths; it stays with the last leader until a newer
            one has announced and lingered.

Taking over: open the BGP door, pass the barrier (everything that the last leader wrote has reached us), rebuild the
allocator, open the API door.
"""

import asyncio
import time

from porter_ha.config import ManagerSettings
from porter_ha.core.admit import Peers, Pools, Speaking, admit_bgp, admit_eips
from porter_ha.core.eligibility import node_view
from porter_ha.core.lease import LeaseSettings
from porter_ha.core.planner import med_of
from porter_ha.core.reconciler import Reconciler
from porter_ha.core.shard import shard_of
from porter_ha.kube import paths
from porter_ha.kube.client import MERGE, ApiError, Client, Unreachable
from porter_ha.manager.elector import Elector
from porter_ha.manager.inputs import Inputs
from porter_ha.manager.supervisor import Worker
from porter_ha.model import names
from porter_ha.model.access import Access
from porter_ha.obs.log import log
from porter_ha.protocol import (
    Claims,
    Do,
    Door,
    Filled,
    FromWorker,
    Hello,
    Raw,
    Raws,
    Renew,
    Routes,
    SessionReport,
    Sessions,
    SetPeers,
    Sync,
    Synced,
    Term,
    Undone,
)

RETRY_S = 0.5


class Replica:
    def __init__(self, settings: ManagerSettings, client: Client, access: Access) -> None:
        self.settings = settings
        self.reconciler = Reconciler()
        self.sessions: dict[str, SessionReport] = {}
        self.pools = Pools((), {})
        self.peers = Peers((), {}, {}, {}, {}, ())
        self.warm = False
        self.announcing_epoch = 0
        self.acting_epoch = 0
        self.changed = asyncio.Event()
        self._client, self._access = client, access
        lease = LeaseSettings(
            settings.identity, settings.lease_duration_s, settings.lease_renew_s, settings.lease_timeout_s
        )
        self.elector = Elector(client, settings.namespace, lease, self._leadership)
        self.inputs = Inputs(client, settings.namespace, self._raws, self._tables, self._barrier_seen)
        self.shards = [self._worker("shard", i) for i in range(settings.shard_count)]
        self.speaker = self._worker("speaker", 0)
        self._tables_dirty = self._pumping = False
        self._tokens = 0
        self._waiting_sync: dict[int, tuple[set[int], asyncio.Future[None]]] = {}
        self._unseen: dict[int, set[str]] = {}
        self._barrier = ""
        self._barrier_event = asyncio.Event()
        self._takeover: asyncio.Task[None] | None = None
        self._dialling = False
        self._told_term = Term(0, 0.0)
        self._feeding = self._filled = False
        self._refills: set[asyncio.Task[None]] = set()
        self._linger: asyncio.TimerHandle | None = None

    # -- life

    async def run(self) -> None:
        """Serve until cancelled; then give the Lease up and let the workers die with us."""
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self.workers:
                    group.create_task(worker.run(), name=worker.name)
                group.create_task(self._feed(), name="inputs")
                group.create_task(self._warm_up(), name="warm-up")
                group.create_task(self.elector.run(), name="elector")
        finally:
            self._shut_api_door()
            await self.elector.resign()

    @property
    def workers(self) -> list[Worker]:
        return [*self.shards, self.speaker]

    def renew(self, access: Access) -> None:
        """Rotated credentials."""
        self._access = access
        self._client.renew(access)
        for shard in self.shards:
            shard.send(Renew(access))

    async def _feed(self) -> None:
        """Watch once there are shards to digest it: what is sent to a process that is not there yet is lost."""
        for shard in self.shards:
            await shard.started.wait()
        self._feeding = True
        await self.inputs.run()

    async def _warm_up(self) -> None:
        """Warm: every kind listed, every shard's claims in. Only now is the Adj-RIB-Out complete."""
        await self.inputs.synced()
        for shard in self.shards:
            shard.send(Filled())
        self._filled = True
        await self._settle_shards()
        self._recompute()
        self.warm = True
        log("warm", services=len(self.reconciler.claims), nodes=len(self.inputs.nodes.objects))
        self.speaker.send(Routes(self.reconciler.planner.drain(), complete=True))
        self.elector.may_run.set()

    def _worker(self, role: str, index: int) -> Worker:
        def hello() -> Hello:
            access = self._access if role == "shard" else None
            return Hello(role, index, self.settings.node, self.settings.classless, access)

        return Worker(f"workers.{role}", hello, self._started, self._frame)

    def _started(self, worker: Worker) -> None:
        if worker is self.speaker:
            self.sessions.clear()
            self._tell_speaker_all()
            return
        worker.send(self._told_term)
        if self._feeding:
            log("shard restarted, listing again", shard=worker.index)
            task = asyncio.create_task(self._refill(worker))
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)

    async def _refill(self, worker: Worker) -> None:
        """A new shard process knows nothing: everything is listed again, and claims it does not repeat are dropped."""
        mine = {k for k in self.reconciler.claims if shard_of(k, len(self.shards)) == worker.index}
        self._unseen[worker.index] = mine
        generation = worker.restarts
        self.inputs.relist()
        await self.inputs.relisted()
        if self._filled:
            worker.send(Filled())
        await self._sync_shards()
        if worker.restarts != generation:
            return  # it died again; its successor does this anew
        for key in self._unseen.pop(worker.index, set()):
            self.reconciler.drop_claim(key, time.monotonic())
        self.reconciler.repeat(mine, time.monotonic())
        self._pump()

    # -- inputs to reconciler

    def _raws(self, raws: list[Raw]) -> None:
        batches: dict[int, list[Raw]] = {}
        for raw in raws:
            batches.setdefault(shard_of(raw.service_key, len(self.shards)), []).append(raw)
        for index, batch in batches.items():
            self.shards[index].send(Raws(batch))

    def _tables(self) -> None:
        if not self._tables_dirty:
            self._tables_dirty = True
            asyncio.get_running_loop().call_soon(self._recompute)

    def _recompute(self) -> None:
        """Nodes, Namespaces, Eips, BgpConf or BgpPeers changed."""
        self._tables_dirty = False
        now, inputs, reconciler = time.monotonic(), self.inputs, self.reconciler
        for name in reconciler.namespaces - inputs.namespaces.objects.keys():
            reconciler.set_namespace(name, None, now)
        for name, namespace in inputs.namespaces.objects.items():
            reconciler.set_namespace(name, namespace.metadata.labels or {}, now)
        reconciler.set_nodes({name: node_view(node) for name, node in inputs.nodes.objects.items()})
        pools = admit_eips(inputs.eips.objects.values())
        if pools != self.pools:
            self.pools = pools
            reconciler.set_pools(pools, now)
        me = Speaking(self.settings.node, self.settings.addresses)
        peers = admit_bgp(inputs.confs.objects.values(), inputs.peers.objects.values(), me)
        if peers != self.peers:
            self.peers = peers
            reconciler.set_scopes(peers.scopes)
            self.speaker.send(SetPeers(list(peers.accepted), self._dialling))
        self._pump()
        self.changed.set()

    def _frame(self, worker: Worker, frame: FromWorker) -> None:
        now = time.monotonic()
        if isinstance(frame, Claims):
            unseen = self._unseen.get(worker.index)
            for claim in frame.changed:
                self.reconciler.set_claim(claim, now)
                if unseen is not None:
                    unseen.discard(claim.key)
            for key in frame.gone:
                self.reconciler.drop_claim(key, now)
            self._pump_soon()
        elif isinstance(frame, Synced):
            self._synced(worker.index, frame.token)
        elif isinstance(frame, Undone):
            if self.acting_epoch:
                self.reconciler.repeat(frame.keys, now)
                self._pump_soon()
        elif isinstance(frame, Sessions):
            self.sessions = {report.peer: report for report in frame.reports}
            self._note_announced()
            self.changed.set()

    # -- reconciler to workers, through the gate

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Let out what the reconciler decided: effects by the API door, announcements to the speaker."""
        self._pumping = False
        effects = self.reconciler.drain_effects()
        if self.acting_epoch:
            batches: dict[int, Do] = {}
            for effect in effects:
                index = shard_of(effect.key, len(self.shards))
                batches.setdefault(index, Do(self.acting_epoch, [])).effects.append(effect)
            for index, do in batches.items():
                self.shards[index].send(do)
        announces = self.reconciler.planner.drain()
        if announces:
            self.speaker.send(Routes(announces, complete=False))
        self.changed.set()

    def _tell_speaker_all(self) -> None:
        planner = self.reconciler.planner
        for group in self.peers.scopes:
            planner.resend(group)
        self.speaker.send(Routes(planner.drain(), complete=self.warm))
        self.speaker.send(Door(bool(self.announcing_epoch), self.announcing_epoch))
        self.speaker.send(SetPeers(list(self.peers.accepted), self._dialling))

    async def _settle_shards(self) -> None:
        """Until every shard has digested everything that the watches have delivered so far (and not a part of it)."""
        while True:
            while self._refills:
                await asyncio.wait(set(self._refills))
            await self._sync_shards()
            if not self._refills:
                return

    async def _sync_shards(self) -> None:
        """Until every shard has digested what it was sent so far. A shard that dies meanwhile is waited for."""
        while True:
            self._tokens += 1
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting_sync[self._tokens] = ({shard.index for shard in self.shards}, future)
            for shard in self.shards:
                shard.send(Sync(self._tokens))
            try:
                async with asyncio.timeout(2.0):
                    await future
                return
            except TimeoutError:  # a shard was not up, or died with the question
                continue

    def _synced(self, index: int, token: int) -> None:
        left, future = self._waiting_sync.get(token, (set(), None))
        left.discard(index)
        if future is not None and not left:
            del self._waiting_sync[token]
            if not future.done():
                future.set_result(None)

    # -- leadership

    def _leadership(self) -> None:
        """The Lease moved, was renewed, or ended: open and close doors accordingly."""
        elector = self.elector
        if elector.leading:
            epoch = elector.election.epoch
            if self.acting_epoch == epoch:
                self._tell_term(Term(epoch, elector.election.acting_until))
            elif self._takeover is None or self._takeover.done():
                self._takeover = asyncio.create_task(self._take_over(epoch), name="takeover")
        elif not elector.leading:
            self._shut_api_door()
        self._judge_bgp_door()

    async def _take_over(self, epoch: int) -> None:
        started = time.monotonic()
        self._open_bgp_door(epoch)
        while self.elector.leading and self.elector.election.epoch == epoch:
            try:
                await self._pass_barrier(epoch)
                break
            except (ApiError, Unreachable, TimeoutError) as error:
                log("barrier not passed yet", epoch=epoch, error=str(error))
                await asyncio.sleep(RETRY_S)
        if not (self.elector.leading and self.elector.election.epoch == epoch):
            return
        self.acting_epoch = epoch
        self._tell_term(Term(epoch, self.elector.election.acting_until))
        self.reconciler.begin_term(epoch, time.monotonic())
        self._pump()
        log("leading", epoch=epoch, takeover_s=round(time.monotonic() - started, 3))

    async def _pass_barrier(self, epoch: int) -> None:
        """Write the epoch where our own Service watch will show it: then all older writes have been shown too."""
        path = paths.services(self.settings.namespace)
        token = f"{epoch} {self.settings.identity} {time.monotonic_ns()}"
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
        async with asyncio.timeout(5.0):
            while self._barrier != token:
                self._barrier_event.clear()
                await self._barrier_event.wait()
        await self._settle_shards()

    def _barrier_seen(self, token: str) -> None:
        self._barrier = token
        self._barrier_event.set()

    def _tell_term(self, term: Term) -> None:
        if term != self._told_term:
            self._told_term = term
            for shard in self.shards:
                shard.send(term)

    def _shut_api_door(self) -> None:
        if self.acting_epoch:
            log("no longer leading", epoch=self.acting_epoch)
            self.acting_epoch = 0
            self.reconciler.end_term()
        self._tell_term(Term(0, 0.0))

    def _open_bgp_door(self, epoch: int) -> None:
        self.announcing_epoch = epoch
        self.reconciler.planner.set_epoch(epoch)
        self.speaker.send(Routes(self.reconciler.planner.drain(), complete=True))
        self.speaker.send(Door(True, epoch))

    def _judge_bgp_door(self) -> None:
        """When to be on the line, and when to fall silent (design 2.2, the reconnect rule, and 2.3)."""
        elector = self.elector
        replaced = elector.announced_epoch > self.announcing_epoch and elector.announced_epoch >= elector.election.epoch
        waited = time.monotonic() - elector.announced_at
        if replaced and waited < self.settings.linger_s:
            if self._linger is None:
                delay = self.settings.linger_s - waited + 0.01
                self._linger = asyncio.get_running_loop().call_later(delay, self._lingered)
        elif replaced and self.announcing_epoch:
            log("a newer leader has announced; withdrawing", epoch=elector.announced_epoch)
            self.announcing_epoch = 0
            self.speaker.send(Door(False, 0))
        dial = self.warm and (bool(self.announcing_epoch) or (replaced and waited >= self.settings.linger_s))
        if dial and not self._dialling:
            self._dialling = True
            self.speaker.send(SetPeers(list(self.peers.accepted), True))

    def _lingered(self) -> None:
        self._linger = None
        self._judge_bgp_door()

    def _note_announced(self) -> None:
        """Once every live session has been sent this term's routes, the next renewal records it in the Lease."""
        live = [report for report in self.sessions.values() if report.state == "Established"]
        if self.announcing_epoch and live and all(r.synced_med == med_of(self.announcing_epoch) for r in live):
            self.elector.to_announce = max(self.elector.to_announce, self.announcing_epoch)
