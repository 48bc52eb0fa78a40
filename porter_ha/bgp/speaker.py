"""The speaker: holds one session per peer and makes each router's view equal to what it was told.

The interface is declarative: `set_peers` names exactly the sessions to hold, `apply` changes what groups should hear,
`set_announce` opens and closes the BGP door. A change of one peer's settings resets that session and no other, and a
change of its scope resets none.

Must never
  send End-of-RIB before the manager said that the table is complete: routers would drop our stale routes;
  close with a NOTIFICATION when it merely stops: routers would drop our live routes (design 2.3).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from porter_ha.bgp.codec import ExaWire
from porter_ha.bgp.listener import Listener
from porter_ha.bgp.peer import Peer
from porter_ha.bgp.rib import GroupRib
from porter_ha.model.effects import Announce
from porter_ha.model.plan import Listening, PathSet, PeerSettings
from porter_ha.protocol import SessionReport

Dial = Callable[[PeerSettings, Callable[[], asyncio.Protocol]], Awaitable[None]]
_SPARE_SETS = 1024


def _same_session(old: PeerSettings, new: PeerSettings) -> bool:
    """Whether a session that is up may stay so."""
    return msgspec.structs.replace(old, group=new.group, forwarded=new.forwarded) == new


class Speaker:
    """All sessions of this replica. `on_change` is called, merged per loop turn, when any report may differ; `took` is
    told how long each router took to receive what had changed."""

    def __init__(
        self, on_change: Callable[[], None], dial: Dial, now: Callable[[], float], took: Callable[[float], None]
    ) -> None:
        self.listener, self._listening = Listener(self._passive, self.changed), Listening()
        self.wire = ExaWire()
        self.dial, self.now, self.took = dial, now, took
        self.may_dial = asyncio.Event()
        self.new = True
        self._announced_to: frozenset[str] | None = frozenset()
        self.complete = False
        self.med = 0
        self._on_change = on_change
        self._change_pending = False
        self._groups: dict[str, GroupRib] = {}
        self._sets: dict[int, PathSet] = {}
        self._sweep_at = _SPARE_SETS
        self._peers: dict[str, Peer] = {}

    def group(self, name: str) -> GroupRib:
        return self._groups.setdefault(name, GroupRib(self._sets))

    def _passive(self, address: str) -> Peer | None:
        """The peer whose router dials us from there."""
        for peer in self._peers.values():
            if peer.settings.passive and peer.settings.address == address:
                return peer
        return None

    def set_peers(self, wanted: Iterable[PeerSettings], listening: Listening) -> None:
        """Exactly these sessions. Those whose settings are as before are not touched, wherever we listen then."""
        by_name = {settings.name: settings for settings in wanted}
        for name, peer in list(self._peers.items()):
            new = by_name.get(name)
            if new is not None and _same_session(peer.settings, new):
                peer.switch(new)
            else:
                peer.remove(new)
                del self._peers[name]
        for name, settings in by_name.items():
            if name not in self._peers:
                self._peers[name] = Peer(settings, self)
        used = {settings.group for settings in by_name.values()}
        for name in self._groups.keys() - used:
            del self._groups[name]  # should it be used again, it is told anew
        self._listening = listening
        self._listen()
        self.changed()

    def set_dial(self, dial: bool) -> None:
        """Whether to connect at all; sessions that are up stay up."""
        if dial:
            self.may_dial.set()
        else:
            self.may_dial.clear()
        self._listen()

    def _listen(self) -> None:
        """While we stay away nobody is to get through: a router whose call is taken and dropped waits for longer and
        longer before it calls again (FRR: up to a minute), one that is refused does not."""
        keys = {p.settings.address: p.settings.password for p in self._peers.values() if p.settings.passive}
        self.listener.set(self._listening if self.may_dial.is_set() else Listening(), keys)

    def set_announce(self, med: int, peers: Iterable[str] | None, new: bool) -> None:
        """Only these peers hear our paths; None: all of them. `new` may be false: of EIPs that they know from us."""
        self.med, self._announced_to, self.new = med, None if peers is None else frozenset(peers), new
        for name, peer in self._peers.items():
            if peer.rib is not None:
                peer.rib.set_announce(self.announces(name), new)
                peer.flush()

    def announces(self, peer: str) -> bool:
        return self._announced_to is None or peer in self._announced_to

    def apply(self, announces: Iterable[Announce], complete: bool) -> None:
        """Changes of groups' Adj-RIB-Outs; `complete` once the first whole table has been given."""
        self.complete = self.complete or complete
        for announce in announces:
            group = self.group(announce.group)
            group.apply(announce)
            for peer in self._peers.values():
                if peer.settings.group == announce.group:
                    peer.touch(announce.changes)
        for peer in self._peers.values():
            peer.flush()
        if len(self._sets) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the sets of paths that no table and no router has any more."""
        used = {number for group in self._groups.values() for number in group.routes.values()}
        for peer in self._peers.values():
            if peer.rib is not None:
                used |= peer.rib.sets_sent
        for number in self._sets.keys() - used:
            del self._sets[number]
        self._sweep_at = 2 * len(self._sets) + _SPARE_SETS

    def changed(self) -> None:
        if not self._change_pending:
            self._change_pending = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._change_pending = False
        self._on_change()

    def reports(self) -> list[SessionReport]:
        return [peer.report() for peer in self._peers.values()]
