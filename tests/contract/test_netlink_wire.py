"""Our netlink bytes are pyroute2's, and the kernel's answers mean the same to both."""

import socket

import pytest
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from porter_ha.netlink import fib, wire


def oracle(kind, flags, sequence, one):
    v4 = ":" not in one.eip
    message = rtmsg()
    message["family"] = socket.AF_INET if v4 else socket.AF_INET6
    message["dst_len"] = 32 if v4 else 128
    message["table"] = 252
    message["proto"] = one.protocol
    message["scope"] = 254
    message["type"] = one.kind
    message["attrs"] = [("RTA_DST", one.eip), ("RTA_TABLE", one.table)]
    if one.source:
        message["attrs"].append(("RTA_PREFSRC", one.source))
    message["attrs"].append(("RTA_OIF", one.link))
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["header"]["sequence_number"] = sequence
    message["header"]["pid"] = 0
    message.encode()
    return bytes(message.data)


ROUTES = [
    wire.Route("10.200.0.1", "10.79.0.21", 1),
    wire.Route("fd00:200::1", "fd79::21", 1),
    wire.Route("10.200.0.2", "", 7),
]


@pytest.mark.parametrize("one", ROUTES)
@pytest.mark.parametrize("kind", [wire.RTM_NEWROUTE, wire.RTM_DELROUTE])
def test_bytes_are_those_of_pyroute2(kind, one):
    flags = wire.REQUEST | wire.ACK | wire.CREATE | wire.REPLACE
    assert wire.route(kind, flags, 77, one) == oracle(kind, flags, 77, one)


@pytest.mark.parametrize("one", ROUTES)
def test_a_route_is_read_as_it_was_written(one):
    data = wire.route(wire.RTM_NEWROUTE, 0, 5, one)
    (reply,) = wire.replies(data)
    assert (reply.sequence, reply.route) == (5, one)


def test_several_messages_in_one_datagram_and_an_error_among_them():
    refusal = wire.HEADER.pack(36, wire.NLMSG_ERROR, 0, 9, 0) + (-17).to_bytes(4, "little", signed=True) + b"\0" * 16
    data = wire.route(wire.RTM_NEWROUTE, 0, 8, ROUTES[0]) + refusal + wire.route(wire.RTM_NEWROUTE, 0, 10, ROUTES[1])
    found = list(wire.replies(data))
    assert [r.sequence for r in found] == [8, 9, 10]
    assert found[1].error == 17


def notice(kind, table, port):
    head = wire.HEADER.pack(0, kind, 0, 1, port)
    return head + bytes([socket.AF_INET, 32, 0, 0, table, 3, 0, 1])


@pytest.mark.parametrize(
    ("kind", "table", "port", "passes"),
    [
        (wire.RTM_NEWROUTE, 252, 0, True),  # by `ip route`, in a table like ours
        (wire.RTM_DELROUTE, 252, 77, True),
        (wire.RTM_NEWROUTE, 252, 4711, False),  # by ourselves
        (wire.RTM_DELROUTE, 252, 4711, False),
        (wire.RTM_NEWROUTE, 254, 0, False),  # in the table main
        (16, 254, 0, True),  # RTM_NEWLINK
        (17, 252, 4711, True),  # RTM_DELLINK
    ],
)
def test_the_kernel_keeps_notices_from_us_that_tell_nothing(kind, table, port, passes):
    """The very program, run by the kernel on another kind of socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        fib.attach(ours, wire.notices_filter(4711))
        for data in (notice(kind, table, port), b"the end of it, which is no route's"):
            theirs.send(data)
        assert ours.recv(100) == (notice(kind, table, port) if passes else b"the end of it, which is no route's")
