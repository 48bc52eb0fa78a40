"""One manager replica, put together: inputs -> shards -> reconciler -> gate -> shards and speaker.

Leader and standby run the same wiring; what differs is which doors of the gate are open (leadership.py).
"""

import asyncio

from porter_ha.config import ManagerSettings
from porter_ha.core.admit_bgp import Peers, Speaking, admit_bgp, community_aliases
from porter_ha.core.admit_eip import Pools, admit_eips
from porter_ha.core.liveness import Liveness
from porter_ha.core.nodes import Nodes
from porter_ha.core.reconciler import Reconciler
from porter_ha.core.shard import shard_of
from porter_ha.kube.client import IN_FLIGHT, Client
from porter_ha.manager.host import Host
from porter_ha.manager.inputs import Inputs
from porter_ha.manager.joining import Joining
from porter_ha.manager.leadership import Leadership
from porter_ha.manager.probes import Prober
from porter_ha.manager.questions import Questions
from porter_ha.manager.rejoin import Rejoin
from porter_ha.manager.supervisor import Worker
from porter_ha.model.access import Access
from porter_ha.model.plan import Claim, Redirect
from porter_ha.obs.log import log
from porter_ha.protocol import (
    Claims,
    Do,
    Filled,
    FromWorker,
    Hello,
    Raw,
    Raws,
    Renew,
    Routes,
    Sessions,
    Synced,
    Undone,
    Written,
)

CORES_PERIOD_S = 5.0  # no kernel tells of a changed cpu.max


def _keep(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Among `tasks` until it is done: a task that nobody holds may vanish."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class Replica:
    def __init__(self, settings: ManagerSettings, host: Host, client: Client, access: Access) -> None:
        self.settings = settings
        self.reconciler = Reconciler()
        self.pools = Pools((), {})
        self.peers = Peers()
        self.nodes = Nodes()
        self.dead = self.vouched = self.borrowed = frozenset[str]()
        self.changed = asyncio.Event()
        self.redirected: tuple[Redirect, ...] = ()
        self.redirect_failure = ""
        self.liveness = Liveness()
        self._host, self._client, self._access = host, client, access
        self.shards = self._new_shards(settings.shards or host.cores())
        self.speaker = self._worker("speaker", 0)
        self.leadership = Leadership(
            settings,
            host,
            client,
            self.reconciler,
            self.shards,
            self.speaker,
            live=lambda: self.inputs.live(),
            settle=self._settle_shards,
            pump=self._pump,
            peers=lambda: self.peers,
            silent=self.liveness.silent,
            out=lambda: self.dead | self.rejoin.waiting,
            on_news=self._judge_nodes,
            on_withdraw=self._set_peers,
        )
        self.inputs = Inputs(
            client, settings.namespace, self._raws, self._tables, self.leadership.barrier_seen, self._api_servers
        )
        self._prober = Prober(host, self.liveness, self._probed)
        self.rejoin = Rejoin(host, self._rejoined)
        self._tables_dirty = self._pumping = False
        self._questions = Questions(self.shards)
        self._joining = Joining(host, lambda: self.nodes.addresses, self._joined)
        self._unseen: dict[int, set[str]] = {}
        self._feeding = self._filled = self._holding = False
        self._running: dict[Worker, asyncio.Task[None]] = {}
        self._refills: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()

    # -- life

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then hand over, and let the workers die with us."""
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                self._running[worker] = group.create_task(worker.run(), name=worker.name)
            tasks = [
                group.create_task(self._feed(), name="inputs"),
                group.create_task(self._warm_up(), name="warm-up"),
                group.create_task(self.leadership.run(), name="leadership"),
                group.create_task(self._prober.run(), name="prober"),
                group.create_task(self.rejoin.run(), name="rejoin"),
                group.create_task(self._follow_cores(group), name="cores"),
            ]
            await stop.wait()
            log("stopping")
            await self.leadership.farewell()
            if self.redirected:
                self.redirected = ()
                await self._redirect()
            for task in (*tasks, *self._running.values()):
                task.cancel()

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
        self._joining.asking = True
        log("warm", services=len(self.reconciler.claims), nodes=len(self.inputs.nodes.objects))
        self.speaker.send(Routes(self.reconciler.planner.drain(), complete=True))
        self.leadership.begin()

    # -- workers

    def _worker(self, role: str, index: int, count: int = 1) -> Worker:
        def hello() -> Hello:
            access = self._access if role == "shard" else None
            in_flight = max(8, IN_FLIGHT // count)
            return Hello(role, index, self.settings.node, self.settings.classless, in_flight, access)

        return Worker(self._host, f"workers.{role}", hello, self._started, self._frame)

    def _new_shards(self, count: int) -> list[Worker]:
        return [self._worker("shard", i, count) for i in range(count)]

    def _started(self, worker: Worker) -> None:
        if worker is self.speaker:
            self._tell_speaker_all()
            return
        worker.send(self.leadership.term)
        if self._feeding:
            log("shard restarted, listing again", shard=worker.index)
            _keep(self._refills, asyncio.create_task(self._refill([worker])))

    async def _refill(self, workers: list[Worker]) -> None:
        """New shard processes know nothing: everything is listed again, and claims they do not repeat are dropped."""
        owned: dict[int, set[str]] = {worker.index: set() for worker in workers}
        for key in self.reconciler.claims:
            if (index := shard_of(key, len(self.shards))) in owned:
                owned[index].add(key)
        generations = {worker: worker.pid for worker in workers}
        self._unseen.update({index: set(keys) for index, keys in owned.items()})
        self.inputs.relist()
        await self.inputs.relisted()
        if self._filled:
            for worker in workers:
                worker.send(Filled())
        await self._questions.digested()
        for worker, generation in generations.items():
            if worker.pid == generation:  # else it died again; its successor does this anew
                for key in self._unseen.pop(worker.index, set()):
                    self._joining.forget(key)
                    self.reconciler.drop_claim(key, self._host.now())
                self.reconciler.repeat(owned[worker.index], self._host.now())
        self._pump()

    async def _follow_cores(self, group: asyncio.TaskGroup) -> None:
        """As many shards as cores, unless the settings say how many, also when a container is resized in place."""
        while not self.settings.shards:
            await asyncio.sleep(CORES_PERIOD_S)
            await self._refilled()
            count = self._host.cores()
            if self._filled and count != len(self.shards):
                _keep(self._refills, group.create_task(self._rebalance(count, group), name="rebalance"))

    async def _rebalance(self, count: int, group: asyncio.TaskGroup) -> None:
        """Other shards in the place of these. What has left an old one is waited for, what has not is decided again;
        in between nothing is written, and nothing that is announced changes."""
        log("rebalancing", shards=count, before=len(self.shards))
        self._feeding, self._holding = False, True
        await self._questions.finished()
        for worker in self.shards:
            task = self._running.pop(worker)
            task.cancel()
            await asyncio.wait([task])
        self.shards[:] = self._new_shards(count)
        for worker in self.shards:
            self._running[worker] = group.create_task(worker.run(), name=worker.name)
        for worker in self.shards:
            await worker.started.wait()
        self._feeding, self._holding = True, False
        await self._refill([*self.shards])
        log("rebalanced", shards=count)

    async def _settle_shards(self) -> None:
        """Until every shard has digested everything that the watches have delivered so far (and not a part of it)."""
        while True:
            await self._refilled()
            await self._questions.digested()
            if not self._refills:
                return

    async def _refilled(self) -> None:
        """Until no shard is being filled."""
        while self._refills:
            await asyncio.wait(set(self._refills))

    # -- inputs to reconciler

    def _raws(self, raws: list[Raw]) -> None:
        batches: dict[int, list[Raw]] = {}
        for raw in raws:
            batches.setdefault(shard_of(raw.service_key, len(self.shards)), []).append(raw)
        for index, batch in batches.items():
            self.shards[index].send(Raws(batch))  # to a shard that is being replaced in vain: all is listed again

    def _api_servers(self, hosts: list[str]) -> None:
        _keep(self._chores, asyncio.create_task(self.leadership.elector.use(hosts), name="API servers"))

    def _tables(self) -> None:
        if not self._tables_dirty:
            self._tables_dirty = True
            asyncio.get_running_loop().call_soon(self._recompute)

    def _recompute(self) -> None:
        """Nodes, Namespaces, Eips, BgpConf or BgpPeers changed."""
        self._tables_dirty = False
        now, inputs, reconciler = self._host.now(), self.inputs, self.reconciler
        for name, namespace in inputs.namespaces.take_changed().items():
            reconciler.set_namespace(name, None if namespace is None else namespace.metadata.labels or {}, now)
        self._set_nodes()
        confs, named = inputs.confs.take_changed(), self.pools.named_peers
        if inputs.eips.take_changed() | confs:
            self.pools = admit_eips(inputs.eips.objects.values(), community_aliases(inputs.confs.objects.values()))
            reconciler.set_pools(self.pools, now)
        if inputs.peers.take_changed() | inputs.secrets.take_changed() | confs or self.pools.named_peers != named:
            self._set_peers()
        self._pump()

    def _set_peers(self) -> None:
        me = Speaking(self.settings.node, self.settings.addresses)
        wanted = () if self.leadership.elector.withdrawn else self.inputs.peers.objects.values()
        peers = admit_bgp(
            self.inputs.confs.objects.values(), wanted, me, self.pools.named_peers, self.inputs.secrets.objects
        )
        if peers != self.peers:
            self.peers = peers
            self.reconciler.set_scopes(peers.scopes)
            self._pump()  # a session that changes its scope must find the new one's routes there
            self.speaker.send(self.leadership.bgp.set_peers())
        if self.redirected != peers.redirects:
            self.redirected = peers.redirects
            _keep(self._chores, asyncio.create_task(self._redirect(), name="redirect"))

    async def _redirect(self) -> None:
        """What is redirected is always what was wanted last, whichever of two that run side by side comes last."""
        try:
            await self._host.redirect(self.redirected)
            self.redirect_failure = ""
        except OSError as error:
            self.redirect_failure = str(error)
            log("cannot redirect the BGP port", error=str(error))
        self.changed.set()

    def _set_nodes(self) -> None:
        """The nodes as the API has them, less those that our probes say are dead."""
        changed = self.inputs.nodes.take_changed()
        for name, node in changed.items():
            self.nodes.set_node(name, node)
        if changed:
            self._prober.set_nodes(self.nodes.addresses)
            self.rejoin.set_nodes(self.nodes.addresses)
            self.vouched = self._vouch()
        waiting = frozenset(self.rejoin.waiting)
        self.nodes.judge(vouched=self.vouched, silent=self.dead | self.borrowed, rejoining=waiting)
        self.reconciler.change_nodes(self.nodes.drain())

    def _vouch(self) -> frozenset[str]:
        return self.liveness.vouched(self.nodes.unknown, self.leadership.link.witnesses(), self.vouched)

    def _joined(self, claim: Claim) -> None:
        """A node can serve a Local Service now."""
        if claim.key in self.reconciler.claims:
            self.reconciler.set_claim(claim, self._host.now())
            self._pump_soon()

    def _rejoined(self) -> None:
        self._set_nodes()
        self._pump()

    def _probed(self) -> None:
        self.leadership.look()
        self._judge_nodes()
        if self.reconciler.review(self._host.now()):
            self._pump_soon()

    def _judge_nodes(self) -> None:
        """Our probes or another replica's verdicts may have changed."""
        link = self.leadership.link
        witnesses = link.witnesses()
        dead = self.liveness.judge(witnesses, self._host.now())
        vouched = self._vouch()
        # A replica that has just started believes the others of nodes that it has not heard itself yet.
        elsewhere = frozenset(name for known in link.living().values() for name in known.beat.out)
        borrowed = elsewhere & self.liveness.unheard()
        if dead != self.dead:
            log("nodes judged", dead=sorted(dead), witnesses=len(witnesses))
            self.rejoin.returned(self.dead - dead & self.liveness.nodes)
        self.rejoin.returned((self.borrowed - borrowed) & elsewhere)
        if (dead, vouched, borrowed) != (self.dead, self.vouched, self.borrowed):
            self.dead, self.vouched, self.borrowed = dead, vouched, borrowed
            self._set_nodes()
            self._pump()

    def _frame(self, worker: Worker, frame: FromWorker) -> None:
        now = self._host.now()
        if isinstance(frame, Claims):
            unseen = self._unseen.get(worker.index)
            for claim in frame.changed:
                self.reconciler.set_claim(self._joining.judge(claim), now)
                if unseen is not None:
                    unseen.discard(claim.key)
            for key in frame.gone:
                self._joining.forget(key)
                self.reconciler.drop_claim(key, now)
            self._pump_soon()
        elif isinstance(frame, Written):
            self.reconciler.confirmed(frame.key, frame.serial, now)
            self._pump_soon()
        elif isinstance(frame, Synced):
            self._questions.answered(worker.index, frame.token)
        elif isinstance(frame, Undone):
            if self.leadership.acting_epoch:
                self.reconciler.repeat(frame.keys, now)
                self._pump_soon()
        elif isinstance(frame, Sessions):
            self.leadership.bgp.note_sessions(frame.reports)
            self.changed.set()

    # -- reconciler to workers, through the gate

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Let out what the reconciler decided: effects by the API door, announcements to the speaker."""
        self._pumping = False
        effects = [] if self._holding else self.reconciler.drain_effects()
        epoch = self.leadership.acting_epoch
        if epoch:
            batches: dict[int, Do] = {}
            for effect in effects:
                index = shard_of(effect.key, len(self.shards))
                batches.setdefault(index, Do(epoch, [])).effects.append(effect)
            for index, do in batches.items():
                self.shards[index].send(do)
        announces = self.reconciler.planner.drain()
        if announces:
            self.speaker.send(Routes(announces, complete=False))
        self.changed.set()

    def _tell_speaker_all(self) -> None:
        planner, leadership = self.reconciler.planner, self.leadership
        leadership.bgp.note_sessions([])
        for group in self.peers.scopes:
            planner.resend(group)
        self.speaker.send(Routes(planner.drain(), complete=leadership.warm))
        for frame in leadership.bgp.frames():
            self.speaker.send(frame)
