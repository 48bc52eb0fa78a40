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
from porter_ha.model.net import V4, V6, family_of
from porter_ha.model.plan import Path, PathSet, PeerSettings, Tags

BATCH = 2000  # EIPs per turn of the loop: keeps a full table from delaying keepalives and other sessions
# EIPs whose paths travel together. A router that installs path by path (BIRD) has, while a new term's better MED
# arrives, a moment with some of an EIP's next hops only, in which flows are hashed elsewhere. It must be short, so an
# EIP's paths are sent side by side: with 400 EIPs together it was 6 ms at 50,000 EIPs, and connections broke. Large
# tables take 8, for which they grow little (50,000 EIPs: 1.4 MB with 400, 2.3 with 8, 8.9 with 1).
TOGETHER, LARGE = 8, 5000


_View = tuple[int | None, int | None]  # what a router sees of a set: its number, and which path if not all of them
_Told = tuple[int, Tags]  # what is told beside a next hop: MED and tags
_Paths = dict[int, tuple[_Told, Path]]


class GroupRib:
    """The Adj-RIB-Out that peers of equal scope share."""

    def __init__(self, sets: dict[int, PathSet]) -> None:
        """`sets` is shared by all groups: the planner numbers them for all together."""
        self.routes: dict[str, int] = {}
        self.sets = sets
        self._prefixes: dict[str, bytes] = {}  # packed once, for all sessions

    def apply(self, announce: Announce) -> None:
        for one in announce.sets:
            self.sets[one.number] = one
        for address, number in announce.changes.items():
            if number is None:
                self.routes.pop(address, None)
                self._prefixes.pop(address, None)
            else:
                if address not in self.routes:
                    self._prefixes[address] = packer.prefix(address)
                self.routes[address] = number

    def prefix(self, address: str) -> bytes:
        """The EIP as NLRI."""
        return self._prefixes.get(address) or packer.prefix(address)


class SessionRib:
    """The difference between a group's Adj-RIB-Out and what this established session has sent."""

    def __init__(
        self, group: GroupRib, settings: PeerSettings, negotiated: Negotiated, announce: bool, new: bool = True
    ) -> None:
        self._group, self._settings, self._negotiated = group, settings, negotiated
        self._sent: dict[str, int] = {}
        self._pending: dict[str, None] = {}
        self._attributes: dict[_Told, bytes] = {}
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
        out += self._updates(batch, together)
        for address in batch:
            del self._pending[address]
        if self._end_due and not self._pending:
            self._end_due = False
            out += [packer.end_of_rib(family) for family in self._negotiated.families]
        return b"".join(out)

    def _updates(self, addresses: list[str], together: int) -> Iterator[bytes]:
        """What is new to the router about these EIPs. Those that go from the same paths to the same paths share it."""
        alike: dict[tuple[int, _View, _View, bool], list[bytes]] = {}
        sent_of, routes, first = self._sent, self._group.routes, self._first  # 50,000 EIPs come through this loop
        families, all_paths, prefix = self._negotiated.families, self._negotiated.add_path, self._group.prefix
        for address in addresses:
            family = V6 if ":" in address else V4
            if family not in families:
                continue
            sent = sent_of.get(address)
            heard = self._new or sent is not None or address in first
            wanted = routes.get(address) if self._announce and heard else None
            repeat = address in self._repeat
            if wanted == sent and not repeat:
                continue
            if repeat:
                self._repeat.discard(address)
            if wanted is None:
                sent_of.pop(address, None)
            else:
                sent_of[address] = wanted
            old: _View = (sent, None) if family in all_paths else self._one_of(sent, address)
            new: _View = (wanted, None) if family in all_paths else self._one_of(wanted, address)
            found = alike.get((family, old, new, repeat))
            if found is None:
                found = alike[family, old, new, repeat] = []
            found.append(prefix(address))
        for (family, old, new, repeat), prefixes in alike.items():
            yield from self._change(family, self._paths(old), self._paths(new), repeat, prefixes, together)

    def _change(
        self, family: int, old: "_Paths", new: "_Paths", repeat: bool, prefixes: list[bytes], together: int
    ) -> Iterator[bytes]:
        size, add_path = self._negotiated.message_size, family in self._negotiated.add_path
        announced = [(key, path) for key, path in new.items() if repeat or old.get(key) != path]
        withdrawn = [key for key in old if key not in new]
        step = len(prefixes) if len(announced) + len(withdrawn) < 2 else together
        for start in range(0, len(prefixes), step):
            part = prefixes[start : start + step]
            for key, (told, path) in announced:
                routes = packer.with_path_id(part, key) if add_path else part
                yield from packer.announcements(self._attributes_of(told), path.next_hop, family, routes, size)
            gone = [route for key in withdrawn for route in (packer.with_path_id(part, key) if add_path else part)]
            yield from packer.withdrawals(family, gone, size)

    def _one_of(self, number: int | None, address: str) -> "_View":
        """The one path of a set that a router without add-path is given; which one depends on the EIP."""
        if number is None:
            return (None, None)
        return (number, sum(address.encode()) % len(self._group.sets[number].paths))

    def _paths(self, view: "_View") -> "_Paths":
        """path id -> what is told of it."""
        number, index = view
        if number is None:
            return {}
        chosen = self._group.sets[number]
        told = (chosen.med, chosen.tags)
        if index is None:
            return {path.path_id: (told, path) for path in chosen.paths}
        return {0: (told, chosen.paths[index])}

    def _attributes_of(self, told: "_Told") -> bytes:
        if told not in self._attributes:
            self._attributes[told] = packer.path_attributes(self._settings, self._negotiated, *told)
        return self._attributes[told]
