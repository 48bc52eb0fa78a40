"""A router as ExaBGP's decoder sees it: UPDATE bytes in, a table of paths out. Independent of our packer."""

from exabgp.bgp.message import Message
from exabgp.bgp.message.direction import Direction
from exabgp.bgp.message.open.capability.negotiated import Negotiated as ExaNegotiated
from exabgp.bgp.message.update import Update
from exabgp.bgp.message.update.attribute import Attribute
from exabgp.bgp.message.update.eor import EOR
from exabgp.environment import getenv
from exabgp.logger import log
from exabgp.protocol.family import AFI

from porter_ha.bgp.codec import ExaWire
from porter_ha.core.session import HEADER, Kind, Negotiated
from tests.unit.builders import peer

log.init(getenv())


class Router:
    """Receives what a session sends; keeps EIP -> path id -> (next hop, MED), and a log of what came in which order."""

    def __init__(self, agreed: Negotiated) -> None:
        self.table: dict[str, dict[int, tuple[str, int]]] = {}
        self.log: list[tuple[str, str, int]] = []
        self.ends: list[int] = []
        self.attributes: dict[str, str] = {}  # prefix with its length -> what was said of it, in ExaBGP's words
        self.messages = 0
        self.longest = 0
        self._negotiated = _negotiated(agreed)

    def hear(self, data: bytes) -> None:
        while data:
            _, length, kind = HEADER.unpack_from(data)
            assert kind == Kind.UPDATE
            self.messages += 1
            self.longest = max(self.longest, length)
            self._update(data[HEADER.size : length])
            data = data[length:]

    def _update(self, body: bytes) -> None:
        update = Update.unpack_message(body, Direction.IN, self._negotiated)
        if isinstance(update, EOR):
            family = update.nlris[0].afi
            self.ends.append(4 if family == AFI.ipv4 else 6)
            return
        for nlri in update.nlris:
            prefix = str(nlri.cidr).partition("/")[0]
            path_id = int.from_bytes(nlri.path_info.path_info, "big") if nlri.path_info.path_info else 0
            if nlri.action == 2:  # Action.WITHDRAW
                self.log.append(("withdraw", prefix, path_id))
                del self.table[prefix][path_id]
                if not self.table[prefix]:
                    del self.table[prefix]
            else:
                self.log.append(("announce", prefix, path_id))
                self.attributes[str(nlri.cidr)] = str(update.attributes)
                med = int(update.attributes[Attribute.CODE.MED].med)
                self.table.setdefault(prefix, {})[path_id] = (str(nlri.nexthop), med)


def _negotiated(agreed: Negotiated) -> ExaNegotiated:
    """ExaBGP's view of a session in which `agreed` was agreed, built from two real OPENs."""
    wire = ExaWire()
    ours = wire.open(peer(families=agreed.families), restarting=False)
    body = ours[HEADER.size :]
    if not agreed.add_path:
        both = received = body.replace(bytes.fromhex("4508"), bytes.fromhex("f008")).replace(
            bytes.fromhex("4504"), bytes.fromhex("f004")
        )
    else:
        both = body
        received = body.replace(bytes.fromhex("00010102"), bytes.fromhex("00010101")).replace(
            bytes.fromhex("00020102"), bytes.fromhex("00020101")
        )
    made = ExaNegotiated({"capability": {"aigp": False}})
    made.sent(Message.unpack(Kind.OPEN, received, Direction.OUT, None))
    made.received(Message.unpack(Kind.OPEN, both, Direction.IN, None))
    return made
