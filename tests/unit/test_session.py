"""The BGP session as a state machine: what it answers to what, and when it gives up."""

import struct

import pytest

from porter_ha.bgp.codec import ExaWire
from porter_ha.core.session import KEEPALIVE, Close, Kind, Refresh, Send, Session, State, Up, message
from porter_ha.model.plan import PeerSettings
from tests.unit.builders import peer

WIRE = ExaWire()


def router(**more: object) -> PeerSettings:
    """The other side's settings."""
    base: dict[str, object] = {"address": "10.1.0.1", "peer_as": 65001, "local_as": 65010, "router_id": "10.9.0.1"}
    return peer(**{**base, **more})


def router_open(**more: object) -> bytes:
    """An OPEN as a router sends it: add-path receive instead of send."""
    data = WIRE.open(router(**more), restarting=False)
    return data.replace(bytes.fromhex("00010102"), bytes.fromhex("00010101")).replace(
        bytes.fromhex("00020102"), bytes.fromhex("00020101")
    )


def established(now: float = 0.0, **more: object) -> Session:
    session = Session(peer(), WIRE)
    session.connecting()
    session.connected(now, restarting=True)
    session.received(router_open(**more), now)
    outputs = session.received(KEEPALIVE, now)
    assert isinstance(outputs[-1], Up)
    return session


def notification(outputs):
    """(code, subcode) of the NOTIFICATION sent, and why."""
    sent, close = outputs[-2:]
    assert isinstance(sent, Send)
    assert isinstance(close, Close)
    assert sent.data[18] == Kind.NOTIFICATION
    return (sent.data[19], sent.data[20]), close.error


def test_the_way_up():
    session = Session(peer(), WIRE)
    assert session.state is State.IDLE
    session.connecting()
    (hello,) = session.connected(0.0, restarting=True)
    assert hello.data[18] == Kind.OPEN
    assert session.received(router_open(), 0.0) == [Send(KEEPALIVE)]
    assert session.state is State.OPEN_CONFIRM
    (up,) = session.received(KEEPALIVE, 0.0)
    assert up.negotiated.families == (4, 6)
    assert up.negotiated.add_path == (4, 6)
    assert up.negotiated.graceful
    assert session.state is State.ESTABLISHED


@pytest.mark.parametrize("size", [1, 7, 19, 1000])
def test_bytes_may_come_in_any_pieces(size):
    session = Session(peer(), WIRE)
    session.connected(0.0, restarting=False)
    data = router_open() + KEEPALIVE + KEEPALIVE
    outputs = [o for i in range(0, len(data), size) for o in session.received(data[i : i + size], 0.0)]
    assert [type(o) for o in outputs] == [Send, Up]


def test_the_smaller_hold_time_counts_and_keepalives_are_a_third_of_it():
    session = established(hold_time_s=9)
    assert session.negotiated.hold_time_s == 9
    assert session.deadline == 3.0
    assert session.tick(3.0) == [Send(KEEPALIVE)]


def test_silence_ends_the_session_at_the_hold_time():
    session = established()
    for now in (10.0, 20.0):
        assert session.tick(now) == [Send(KEEPALIVE)]
    why, text = notification(session.tick(30.0))
    assert why == (4, 0)
    assert "30 s" in text
    assert session.state is State.IDLE


def test_anything_heard_restarts_the_hold_timer():
    session = established()
    session.received(KEEPALIVE, 25.0)
    assert session.tick(31.0) == [Send(KEEPALIVE)]
    assert session.state is State.ESTABLISHED


@pytest.mark.parametrize(
    ("more", "expected", "says"),
    [
        ({"local_as": 65099}, (2, 2), "65099"),
        ({"hold_time_s": 1}, (2, 6), "hold time of 1 s"),
        ({"router_id": "0.0.0.0"}, (2, 3), "zero"),
    ],
)
def test_an_open_that_cannot_be_agreed_to(more, expected, says):
    session = Session(peer(), WIRE)
    session.connected(0.0, restarting=False)
    why, text = notification(session.received(router_open(**more), 0.0))
    assert why == expected
    assert says in text


def test_no_common_family():
    session = Session(peer(families=(6,)), WIRE)
    session.connected(0.0, restarting=False)
    assert notification(session.received(router_open(families=(4,)), 0.0))[0] == (2, 7)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00" * 19, (1, 1)),
        (b"\xff" * 16 + struct.pack("!HB", 18, 4), (1, 2)),
        (b"\xff" * 16 + struct.pack("!HB", 20, 4), (1, 2)),
        (b"\xff" * 16 + struct.pack("!HB", 19, 9), (1, 3)),
        (message(Kind.OPEN, b"\x04" + b"\x00" * 9), (5, 3)),
    ],
)
def test_nonsense_is_answered_with_its_notification(data, expected):
    assert notification(established().received(data, 1.0))[0] == expected


def test_messages_before_their_time():
    session = Session(peer(), WIRE)
    session.connected(0.0, restarting=False)
    assert notification(session.received(KEEPALIVE, 0.0))[0] == (5, 1)
    session = Session(peer(), WIRE)
    session.connected(0.0, restarting=False)
    session.received(router_open(), 0.0)
    assert notification(session.received(message(Kind.UPDATE, b"\0\0\0\0"), 0.0))[0] == (5, 2)


def test_a_notification_closes_and_is_told_in_words():
    (close,) = established().received(message(Kind.NOTIFICATION, bytes([6, 2])), 1.0)
    assert isinstance(close, Close)
    assert "Administrative Shutdown" in close.error


def test_route_refresh_is_honoured_for_families_that_we_send():
    refresh = message(Kind.ROUTE_REFRESH, struct.pack("!HBB", 2, 0, 1))
    assert established().received(refresh, 1.0) == [Refresh(6)]
    assert established(families=(4,)).received(refresh, 1.0) == []


def test_what_routers_announce_is_dropped():
    session = established()
    assert session.received(message(Kind.UPDATE, b"\xde\xad\xbe\xef" * 5), 1.0) == []
    assert session.received_updates == 1


def test_nothing_is_heard_after_the_end():
    session = established()
    session.received(b"\x00" * 19, 1.0)
    assert session.received(KEEPALIVE, 2.0) == []
    assert session.deadline == float("inf")


def test_the_end_of_a_peer_makes_its_router_forget_also_one_that_keeps_routes_after_a_notification():
    """RFC 8538: without the N bit any NOTIFICATION does it; with it, a hard reset that carries the reason."""
    plain = established(restart_time_s=0)
    assert notification(plain.stop(6, 3, "gone"))[0] == (6, 3)
    outputs = established().stop(6, 3, "gone")
    assert notification(outputs)[0] == (6, 9)
    assert outputs[0].data[21:] == bytes([6, 3])
    assert established().tick(1000.0)[0].data[19:21] == bytes([4, 0]), "what is not on purpose keeps the routes"
