"""OPEN, NOTIFICATION and ROUTE-REFRESH by ExaBGP's message classes: the only importer of exabgp.

Its reactor and RIB are not used (bgp.md 0: they reorder fast changes). UPDATEs are packed by packer.py and checked in
tests against this library's decoder. Whatever its parser raises on a router's bytes becomes a WireError.
"""

from exabgp.bgp.message.notification import Notification, Notify
from exabgp.bgp.message.open import Open
from exabgp.bgp.message.open.asn import ASN
from exabgp.bgp.message.open.capability.addpath import AddPath
from exabgp.bgp.message.open.capability.asn4 import ASN4
from exabgp.bgp.message.open.capability.capabilities import Capabilities
from exabgp.bgp.message.open.capability.capability import Capability
from exabgp.bgp.message.open.capability.extended import ExtendedMessage
from exabgp.bgp.message.open.capability.graceful import Graceful
from exabgp.bgp.message.open.capability.mp import MultiProtocol
from exabgp.bgp.message.open.capability.refresh import RouteRefresh
from exabgp.bgp.message.open.holdtime import HoldTime
from exabgp.bgp.message.open.routerid import RouterID
from exabgp.bgp.message.open.version import Version
from exabgp.protocol.family import AFI, SAFI

from porter_ha.core.session import Kind, Negotiated, WireError, message
from porter_ha.model.net import V4, V6
from porter_ha.model.plan import PeerSettings

_SEND, _RECEIVE = 2, 1
_NOTIFICATION_BIT = 0x4  # RFC 8538: a NOTIFICATION keeps our routes too, where the router agrees
_AFI = {V4: AFI.ipv4, V6: AFI.ipv6}


def _pairs(families: tuple[int, ...]) -> list[tuple[AFI, SAFI]]:
    return [(_AFI[f], SAFI.unicast) for f in families]


class ExaWire:
    """core.session.Wire over ExaBGP's classes."""

    def open(self, settings: PeerSettings, restarting: bool) -> bytes:
        families = _pairs(settings.families)
        capabilities = Capabilities()
        code = Capability.CODE
        capabilities[code.MULTIPROTOCOL] = MultiProtocol(families)
        capabilities[code.FOUR_BYTES_ASN] = ASN4(settings.local_as)
        capabilities[code.ROUTE_REFRESH] = RouteRefresh()
        capabilities[code.EXTENDED_MESSAGE] = ExtendedMessage()
        capabilities[code.ADD_PATH] = AddPath(families, _SEND)
        if settings.restart_time_s:
            flags = (Graceful.RESTART_STATE if restarting else 0) | _NOTIFICATION_BIT
            forwarding = [(afi, safi, Graceful.FORWARDING_STATE) for afi, safi in families]
            capabilities[code.GRACEFUL_RESTART] = Graceful().set(flags, settings.restart_time_s, forwarding)
        hello = Open(
            Version(4),
            ASN(settings.local_as),
            HoldTime(settings.hold_time_s),
            RouterID(settings.router_id),
            capabilities,
        )
        return bytes(hello.message())

    def negotiate(self, settings: PeerSettings, body: bytes) -> Negotiated:
        try:
            theirs = Open.unpack_message(body)
        except Notify as error:
            raise WireError(error.code, error.subcode, f"bad OPEN: {error}") from error
        except Exception as error:  # whatever a parser makes of hostile bytes, it ends this session only
            raise WireError(2, 0, f"unreadable OPEN: {error!r}") from error
        said = theirs.capabilities
        code = Capability.CODE
        asn4 = code.FOUR_BYTES_ASN in said
        peer_as = int(said[code.FOUR_BYTES_ASN]) if asn4 else int(theirs.asn)
        if peer_as != settings.peer_as:
            raise WireError(2, 2, f"the router is in AS {peer_as}; spec.conf.peerAs says {settings.peer_as}")
        router_id = str(theirs.router_id)
        if router_id == "0.0.0.0" or (peer_as == settings.local_as and router_id == settings.router_id):
            raise WireError(2, 3, f"the router's BGP identifier is {router_id}, which is zero or our own")
        hold = min(int(theirs.hold_time), settings.hold_time_s)
        if hold in (1, 2):
            raise WireError(2, 6, f"the router wants a hold time of {hold} s; 3 s is the least there is")
        offered = [(f, pair) for f, pair in zip(settings.families, _pairs(settings.families), strict=True)]
        spoken = list(said.get(code.MULTIPROTOCOL, [(AFI.ipv4, SAFI.unicast)]))
        families = tuple(f for f, pair in offered if pair in spoken)
        if not families:
            raise WireError(2, 7, "the router speaks none of our address families; activate the neighbour in one")
        paths = said.get(code.ADD_PATH, {})
        graceful = said.get(code.GRACEFUL_RESTART)
        return Negotiated(
            hold_time_s=hold,
            families=families,
            add_path=tuple(f for f, pair in offered if f in families and paths.get(pair, 0) & _RECEIVE),
            asn4=asn4,
            message_size=65535 if code.EXTENDED_MESSAGE in said else 4096,
            graceful=graceful is not None and settings.restart_time_s > 0,
            router_id=router_id,
            notification_kept=bool(graceful is not None and graceful.restart_flag & _NOTIFICATION_BIT)
            and settings.restart_time_s > 0,
        )

    def notification(self, code: int, subcode: int, data: bytes) -> bytes:
        return message(Kind.NOTIFICATION, bytes([code, subcode]) + data)

    def describe(self, body: bytes) -> str:
        code, subcode = body[0], body[1]
        words = Notification._str_subcode.get((code, subcode), "")
        return f"{Notification._str_code.get(code, 'unknown error')} ({code}/{subcode} {words})"

    def refreshed_family(self, body: bytes) -> int:
        afi, subtype, safi = int.from_bytes(body[:2], "big"), body[2], body[3]
        if subtype != 0 or safi != int(SAFI.unicast):  # begin and end of an enhanced refresh are not for a sender
            return 0
        return {int(AFI.ipv4): V4, int(AFI.ipv6): V6}.get(afi, 0)
