"""rtnetlink messages for the agent's routes, packed and unpacked by struct (rtnetlink(7)).

A route takes 3 us here and 200 us through pyroute2, which is the oracle: tests compare the bytes of both.
"""

import socket
import struct
from collections.abc import Iterator

from porter_ha.model.names import ROUTE_PROTOCOL, ROUTE_TABLE
from porter_ha.model.net import V4, family_of, packed, to_text
from porter_ha.model.value import Value

AF = {4: 2, 6: 10}
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP, CREATE, REPLACE = 0x1, 0x4, 0x300, 0x400, 0x100
RTN_LOCAL = 2
SCOPE_HOST = 254
_TABLE_COMPAT = 252
RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_TABLE = 1, 4, 7, 15

HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTR = struct.Struct("=HH")
_WHOLE_V4 = struct.Struct("=IHHII BBBBBBBBI HH4s HHI HH4s HHI")  # what nearly all of 10,000 routes are, in one go
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


class Route(Value, frozen=True):
    """A route as far as the agent cares: `local EIP dev <index> src <source>` in some table by some protocol."""

    eip: str
    source: str
    link: int
    table: int = ROUTE_TABLE
    protocol: int = ROUTE_PROTOCOL
    kind: int = RTN_LOCAL


def attr(kind: int, value: bytes) -> bytes:
    """An attribute, padded as the next one needs it."""
    return _ATTR.pack(4 + len(value), kind) + value + b"\x00" * (-len(value) % 4)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message to the kernel."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def route(kind: int, flags: int, sequence: int, one: Route) -> bytes:
    """RTM_NEWROUTE or RTM_DELROUTE for one host route."""
    family = family_of(one.eip)
    if family == V4 and one.source:
        return _WHOLE_V4.pack(
            *(_WHOLE_V4.size, kind, flags, sequence, 0),
            *(AF[V4], 32, 0, 0, _TABLE_COMPAT, one.protocol, SCOPE_HOST, one.kind, 0),
            *(8, RTA_DST, packed(one.eip)),
            *(8, RTA_TABLE, one.table),
            *(8, RTA_PREFSRC, packed(one.source)),
            *(8, RTA_OIF, one.link),
        )
    head = _RTMSG.pack(
        AF[family], 32 if family == V4 else 128, 0, 0, _TABLE_COMPAT, one.protocol, SCOPE_HOST, one.kind, 0
    )
    attrs = attr(RTA_DST, packed(one.eip)) + attr(RTA_TABLE, _U32.pack(one.table))
    if one.source:
        attrs += attr(RTA_PREFSRC, packed(one.source))
    attrs += attr(RTA_OIF, _U32.pack(one.link))
    return message(kind, flags, sequence, head + attrs)


def dump(family: int, sequence: int) -> bytes:
    """RTM_GETROUTE for our table and protocol only: the kernel filters (needs strict checking on the socket)."""
    head = _RTMSG.pack(AF[family], 0, 0, 0, _TABLE_COMPAT, ROUTE_PROTOCOL, 0, 0, 0)
    return message(RTM_GETROUTE, REQUEST | DUMP, sequence, head + attr(RTA_TABLE, _U32.pack(ROUTE_TABLE)))


class Reply(Value, frozen=True):
    """One message from the kernel: a route, an acknowledgement (`error` 0), a refusal, or the end of a dump."""

    sequence: int
    kind: int
    route: Route | None = None
    error: int | None = None


def replies(data: bytes) -> Iterator[Reply]:
    """The messages of one datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _flags, sequence, _port = HEADER.unpack_from(data, offset)
        body = data[offset + HEADER.size : offset + length]
        if kind == NLMSG_ERROR:
            yield Reply(sequence, kind, error=-_I32.unpack_from(body)[0])
        elif kind == NLMSG_DONE:
            yield Reply(sequence, kind, error=-_I32.unpack_from(body)[0] if len(body) >= 4 else 0)
        elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
            yield Reply(sequence, kind, route=_route_of(body))
        else:
            yield Reply(sequence, kind)
        offset += (length + 3) & ~3


def _route_of(body: bytes) -> Route:
    family_number, bits, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    attrs: dict[int, bytes] = {}
    offset = _RTMSG.size
    while offset + _ATTR.size <= len(body):
        length, number = _ATTR.unpack_from(body, offset)
        if length < _ATTR.size:
            break
        attrs[number] = body[offset + _ATTR.size : offset + length]
        offset += (length + 3) & ~3
    family = 4 if family_number == AF[4] else 6
    if RTA_TABLE in attrs:
        table = _U32.unpack(attrs[RTA_TABLE])[0]
    host = bits == (32 if family == V4 else 128) and RTA_DST in attrs
    return Route(
        eip=to_text(family, int.from_bytes(attrs[RTA_DST], "big")) if host else "",
        source=to_text(family, int.from_bytes(attrs[RTA_PREFSRC], "big")) if RTA_PREFSRC in attrs else "",
        link=_U32.unpack(attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0,
        table=table,
        protocol=protocol,
        kind=kind,
    )


_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_PASS, _DROP = 0xFFFFFFFF, 0
_INSTRUCTION = struct.Struct("=HBBI")


def notices_filter(port: int) -> bytes:
    """A socket filter (classic BPF, socket(7)) for notices: routes of large table numbers, as ours is, that another
    socket than `port` changed, and all that is about no route. What it drops wakes nobody: on a node with a routing
    daemon most notices are of the table main, and of 10,000 EIPs that we program ourselves each would be one."""
    # The machine loads from the network's byte order, and netlink speaks the host's: hence htons and htonl.
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD_HALF, 0, 0, 4),  # nlmsg_type
            (_IF_EQUAL, 1, 0, socket.htons(RTM_NEWROUTE)),
            (_IF_EQUAL, 0, 4, socket.htons(RTM_DELROUTE)),  # about no route: pass
            (_LOAD_BYTE, 0, 0, HEADER.size + 4),  # rtm_table
            (_IF_EQUAL, 0, 3, _TABLE_COMPAT),  # drop
            (_LOAD_WORD, 0, 0, 12),  # nlmsg_pid
            (_IF_EQUAL, 1, 0, socket.htonl(port)),  # drop
            (_RETURN, 0, 0, _PASS),
            (_RETURN, 0, 0, _DROP),
        )
    )
