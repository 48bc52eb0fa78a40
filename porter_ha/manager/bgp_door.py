"""The BGP door of a replica: which routers hear its paths, and with which MED (design 2.1-2.3).

It stays with the last leader until a newer one has announced and the linger is over. A standby keeps its sessions and
announces nothing, but for routers that the leader does not serve (or all, with `standby: hot`): those hear its paths
at a MED worse than any leader's. When the leader is dead and nobody can be elected, a standby stands in for it.

The reconnect rule: a replica dials only when it announces, or when a newer leader on another node has announced and the
linger is over. Else the End-of-RIB of an empty table would make routers drop the stale paths that still carry traffic.

Must never: close because the API server cannot be reached, or say "announced" before this replica has seen everything.
"""

import asyncio
from collections.abc import Callable, Iterable

from porter_ha.config import ManagerSettings
from porter_ha.core.admit_bgp import Peers
from porter_ha.core.handover import HotPeers, Known
from porter_ha.core.planner import STANDBY_MED, Planner, med_of
from porter_ha.kube.lease import Announced
from porter_ha.manager.elector import Elector
from porter_ha.manager.supervisor import Worker
from porter_ha.obs.log import log
from porter_ha.protocol import Door, Frame, Routes, SessionReport, SetPeers

HOT = "hot"
PREFIXES_PER_S = 5000.0


class BgpDoor:
    """`epoch` is that of the paths that every router hears from here; 0 while it is closed."""

    def __init__(
        self,
        settings: ManagerSettings,
        now: Callable[[], float],
        planner: Planner,
        speaker: Worker,
        elector: Elector,
        peers: Callable[[], Peers],
    ) -> None:
        self.epoch = 0
        self.warm = False
        self.dialling = False
        self.silenced = asyncio.Event()
        self.sessions: dict[str, SessionReport] = {}
        self._settings, self._now, self._planner = settings, now, planner
        self._speaker, self._elector, self._peers = speaker, elector, peers
        self._med = STANDBY_MED
        self._confirmed = 0
        self._standing_in = self._followed = False
        self._relieved_at = float("inf")
        self._hot: frozenset[str] = frozenset()
        self._hot_peers = HotPeers(settings.linger_s)
        self._timer: asyncio.TimerHandle | None = None

    # -- what others see

    @property
    def established(self) -> tuple[str, ...]:
        """The peers that we reach: with a session that is not quiet."""
        return tuple(name for name in self._up if not self.sessions[name].quiet)

    @property
    def _up(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, report in self.sessions.items() if report.state == "Established"))

    @property
    def served(self) -> tuple[str, ...]:
        """The peers that have been sent everything of ours."""
        if not self.epoch:
            return ()
        return tuple(name for name in self.established if self.sessions[name].synced_med == self._med)

    def frames(self) -> list[Frame]:
        """What a new speaker process must be told, after the routes."""
        return [self._door(), self.set_peers()]

    # -- the leader's

    def open(self, epoch: int, *, standing_in: bool = False) -> None:
        """Let every router hear our paths, as those of this term."""
        self.epoch, self._med, self._standing_in = epoch, med_of(epoch, standing_in), standing_in
        self._followed = False
        self._planner.set_med(self._med)
        self._speaker.send(Routes(self._planner.drain(), complete=True))
        self._speaker.send(self._door())

    def confirm(self, epoch: int) -> None:
        """This term's leader has seen everything, so what it announces is complete."""
        self._confirmed = epoch
        self._judge_announced()

    def note_sessions(self, reports: Iterable[SessionReport]) -> None:
        self.sessions = {report.peer: report for report in reports}
        self._judge_announced()

    def _judge_announced(self) -> None:
        """Once every session has been sent this term's routes, the next renewal records it in the Lease."""
        sent = bool(self._up) and all(self.sessions[name].synced_med == self._med for name in self._up)
        if sent and self.epoch and self.epoch == self._confirmed:
            self._elector.to_announce = Announced(self.epoch, self._settings.node)

    # -- everybody's

    def judge(self) -> None:
        """When to be on the line, and when to fall silent."""
        elector = self._elector
        # BGP has no acknowledgement: a router may still be installing the new leader's paths.
        linger = self._settings.linger_s + len(self._planner.spreads) / PREFIXES_PER_S
        replaced = (
            elector.announced.epoch > self.epoch
            and elector.announced.epoch >= elector.election.seen_epoch
            and elector.announced.node != self._settings.node  # a former self's paths are stale, not replaced
        )
        if self.epoch and elector.election.seen_epoch > self.epoch and not self._followed:
            self._followed = True  # new EIPs are the next leader's to announce; ours would end with our linger
            self._speaker.send(self._door())
        waited = self._now() - elector.announced_at
        if replaced and waited < linger:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(linger - waited + 0.01, self._lingered)
        elif replaced and self.epoch:
            log("a newer leader has announced; withdrawing", epoch=elector.announced.epoch)
            self._close()
        dial = self.warm and (bool(self.epoch) or (replaced and waited >= linger))
        if dial and not self.dialling:
            self.dialling = True
            self._speaker.send(self.set_peers())

    def _lingered(self) -> None:
        self._timer = None
        self.judge()

    def _close(self) -> None:
        self.epoch, self._med, self._hot = 0, STANDBY_MED, frozenset()
        self._standing_in = self._followed = False
        self._speaker.send(self._door())
        self._planner.set_med(STANDBY_MED)
        self._speaker.send(Routes(self._planner.drain(), complete=True))
        self.silenced.set()

    # -- a standby's

    def stand_by(self, leader: Known | None) -> None:
        """Serve the routers that the leader (as it is heard now; None when it is not) does not serve."""
        served = None
        if leader is not None and leader.beat.leading and leader.beat.announcing:
            served = frozenset(leader.beat.served)
        if self._standing_in:
            relieved = served is not None and served.issuperset(self.established)
            self._relieved_at = min(self._relieved_at, self._now()) if relieved else float("inf")
            if self._now() - self._relieved_at >= self._settings.linger_s:
                log("the leader serves every router again; standing in no longer")
                self._close()
        if self.epoch or not self.warm:
            return
        hot = self._hot_peers.update(self.established, served, self._now())
        if self._settings.standby == HOT:
            hot = frozenset(self.established)
        if hot != self._hot:
            log("routers served by this standby", peers=sorted(hot))
            self._hot = hot
            self._speaker.send(self._door())

    # -- within

    def _door(self) -> Door:
        return Door(self._med, None if self.epoch else sorted(self._hot), not self._followed)

    def set_peers(self) -> SetPeers:
        """What tells the speaker which sessions to hold."""
        peers = self._peers()
        return SetPeers(list(peers.accepted), peers.listening, self.dialling)
