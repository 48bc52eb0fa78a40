"""What a group of peers should hear, and what one router has heard so far.

The group's Adj-RIB-Out is shared by its sessions: EIP -> number of a PathSet. A session remembers only the number
that it last sent per EIP, and which EIPs may differ. Changes of one EIP that come faster than they are sent merge;
the last one wins. New paths are announced before old ones are withdrawn.
"""

from collections.abc import Iterator
from itertools import islice

from porter_ha.bgp import packer
from porter_ha.core.session import Negotiated
from porter_ha.model.effects import Announce
from porter_ha.model.net import family_of
from porter_ha.model.plan import Path, PathSet, PeerSettings

BATCH = 2000  # EIPs per turn of the loop: keeps a full table from delaying keepalives and other sessions
# EIPs whose paths travel together. A router that installs path by path (BIRD) has, while a new term's better MED
# arrives, a moment with some of an EIP's next hops only, in which flows are hashed elsewhere. It must be short, so an
# EIP's paths are sent side by side: with 400 EIPs together it was 6 ms at 50,000 EIPs, and connections broke. Large
# tables take 8, for which they grow little (50,000 EIPs: 1.4 MB with 400, 2.3 with 8, 8.9 with 1).
TOGETHER, LARGE = 8, 5000


class GroupRib:
    """The Adj-RIB-Out that peers of equal scope share."""

    def __init__(self, sets: dict[int, PathSet]) -> None:
        """`sets` is shared by all groups: the planner numbers them for all together."""
        self.routes: dict[str, int] = {}
        self.sets = sets

    def apply(self, announce: Announce) -> None:
        for one in announce.sets:
            self.sets[one.number] = one
        for address, number in announce.changes.items():
            if number is None:
                self.routes.pop(address, None)
            else:
                self.routes[address] = number


class SessionRib:
    """The difference between a group's Adj-RIB-Out and what this established session has sent."""

    def __init__(
        self, group: GroupRib, settings: PeerSettings, negotiated: Negotiated, announce: bool, new: bool = True
    ) -> None:
        self._group, self._settings, self._negotiated = group, settings, negotiated
        self._sent: dict[str, int] = {}
        self._pending: dict[str, None] = {}
        self._attributes: dict[int, bytes] = {}
        self._announce, self._new = False, True
        self._end_due = False
        self._repeat: set[str] = set()
        self._first = frozenset(group.routes)  # what a router that has just come must hear before the End-of-RIB
        self.set_announce(announce, new)

    @property
    def prefixes(self) -> int:
        return len(self._sent)

    @property
    def sets_sent(self) -> set[int]:
        """The numbers of the sets of paths that the router has."""
        return set(self._sent.values())

    @property
    def idle(self) -> bool:
        return not self._pending and not self._end_due

    def set_announce(self, announce: bool, new: bool = True) -> None:
        """Whether this replica's paths are to be heard at all (the BGP door), and those of EIPs unheard of so far."""
        if (announce, new) != (self._announce, self._new):
            self._announce, self._new = announce, new
            self._pending.update(dict.fromkeys(self._group.routes if announce else self._sent))

    def switch(self, group: GroupRib) -> None:
        """Belong to another group from now on: only what differs between the two is sent."""
        affected = [*self._sent, *group.routes]
        self._group = group
        self.touch(iter(affected))

    def touch(self, addresses: Iterator[str]) -> None:
        if self._announce:
            self._pending.update(dict.fromkeys(a for a in addresses if family_of(a) in self._negotiated.families))

    def refresh(self, family: int) -> None:
        """Send everything of a family again, with its End-of-RIB."""
        for address in self._sent:
            if family_of(address) == family:
                self._repeat.add(address)
                self._pending[address] = None
        self._end_due = True

    def end_initial(self) -> None:
        """Once what is pending is sent, say End-of-RIB (RFC 4724): the router may drop what we did not repeat."""
        self._end_due = True

    def take(self) -> bytes:
        """The next batch of UPDATEs; empty when there is nothing left to say."""
        out: list[bytes] = []
        batch = list(islice(self._pending, BATCH))
        together = TOGETHER if len(self._pending) > LARGE else 1
        for start in range(0, len(batch), together):
            out += self._updates(batch[start : start + together])
        for address in batch:
            del self._pending[address]
        if self._end_due and not self._pending:
            self._end_due = False
            out += [packer.end_of_rib(family) for family in self._negotiated.families]
        return b"".join(out)

    def _updates(self, addresses: list[str]) -> Iterator[bytes]:
        withdrawn: dict[int, list[bytes]] = {}
        announced: dict[tuple[int, int, str], list[bytes]] = {}
        for address in addresses:
            self._difference(address, announced, withdrawn)
        size = self._negotiated.message_size
        for (family, med, next_hop), routes in announced.items():
            yield from packer.announcements(self._attributes_of(med), next_hop, family, routes, size)
        for family, routes in withdrawn.items():
            yield from packer.withdrawals(family, routes, size)

    def _difference(
        self, address: str, announced: dict[tuple[int, int, str], list[bytes]], withdrawn: dict[int, list[bytes]]
    ) -> None:
        family = family_of(address)
        if family not in self._negotiated.families:
            return
        sent = self._sent.get(address)
        known = sent is not None or address in self._first
        wanted = self._group.routes.get(address) if self._announce and (self._new or known) else None
        repeat = address in self._repeat
        self._repeat.discard(address)
        if wanted == sent and not repeat:
            return
        add_path = family in self._negotiated.add_path
        new, old = self._paths(wanted, address, add_path), self._paths(sent, address, add_path)
        if wanted is None:
            self._sent.pop(address, None)
        else:
            self._sent[address] = wanted
        for key, path in new.items():
            if repeat or old.get(key) != path:
                route = packer.nlri(address, key if add_path else None)
                announced.setdefault((family, path[0], path[1].next_hop), []).append(route)
        for key in old:
            if key not in new:
                withdrawn.setdefault(family, []).append(packer.nlri(address, key if add_path else None))

    def _paths(self, number: int | None, address: str, add_path: bool) -> dict[int, tuple[int, Path]]:
        """path id -> (MED, path). A router without add-path is given one path, a different one for each EIP."""
        if number is None:
            return {}
        chosen = self._group.sets[number]
        if add_path:
            return {path.path_id: (chosen.med, path) for path in chosen.paths}
        index = sum(address.encode()) % len(chosen.paths)
        return {0: (chosen.med, chosen.paths[index])}

    def _attributes_of(self, med: int) -> bytes:
        if med not in self._attributes:
            self._attributes[med] = packer.path_attributes(self._settings, self._negotiated, med)
        return self._attributes[med]
