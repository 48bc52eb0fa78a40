"""What one router is told: the difference to what it heard, the last change winning, new paths before old ones go."""

import asyncio

import pytest

from porter_ha.bgp.rib import BATCH, LARGE, TOGETHER, GroupRib, SessionRib
from porter_ha.bgp.speaker import Speaker
from porter_ha.core.session import Negotiated
from porter_ha.model.effects import Announce
from porter_ha.model.plan import Path, PathSet
from tests.contract.decode import Router
from tests.unit.builders import peer

AGREED = Negotiated(30, (4, 6), (4, 6), True, 4096, True, "10.9.0.1")
A, B, C = Path(1, "10.1.0.1"), Path(2, "10.1.0.2"), Path(3, "10.1.0.3")


def group(*sets):
    made = GroupRib({})
    made.apply(Announce("all", tuple(PathSet(n, med, paths) for n, med, paths in sets), {}))
    return made


def test_the_router_ends_up_with_what_was_set_last():
    rib, router = group((1, 100, (A, B)), (2, 100, (B, C))), Router(AGREED)
    session = SessionRib(rib, peer(), AGREED, announce=True)
    for number in (1, None, 2):
        rib.apply(Announce("all", (), {"10.0.0.1": number}))
        session.touch(iter(["10.0.0.1"]))
    router.hear(session.take())
    assert router.table == {"10.0.0.1": {2: ("10.1.0.2", 100), 3: ("10.1.0.3", 100)}}
    rib.apply(Announce("all", (), {"10.0.0.1": None}))
    session.touch(iter(["10.0.0.1"]))
    router.hear(session.take())
    assert router.table == {}


def test_only_the_difference_is_sent_and_new_paths_come_first():
    rib, router = group((1, 100, (A, B)), (2, 100, (B, C))), Router(AGREED)
    session = SessionRib(rib, peer(), AGREED, announce=True)
    rib.apply(Announce("all", (), {"10.0.0.1": 1}))
    session.touch(iter(["10.0.0.1"]))
    router.hear(session.take())
    router.log.clear()
    rib.apply(Announce("all", (), {"10.0.0.1": 2}))
    session.touch(iter(["10.0.0.1"]))
    router.hear(session.take())
    assert router.log == [("announce", "10.0.0.1", 3), ("withdraw", "10.0.0.1", 1)]


@pytest.mark.parametrize(("count", "together"), [(LARGE + BATCH, TOGETHER), (100, 1)])
def test_eips_of_a_large_table_travel_together_and_those_of_a_small_one_each_with_all_its_paths(count, together):
    rib = group((1, 100, (A, B)))
    addresses = [f"10.0.{i >> 8}.{i & 255}" for i in range(count)]
    rib.apply(Announce("all", (), dict.fromkeys(addresses, 1)))
    session, router = SessionRib(rib, peer(), AGREED, announce=True), Router(AGREED)
    router.hear(session.take())
    sent = min(count, BATCH)
    assert len(router.table) == sent
    assert router.messages == 2 * sent // together


def test_end_of_rib_comes_after_the_last_route_and_only_when_due():
    rib = group((1, 100, (A,)))
    rib.apply(Announce("all", (), {f"10.0.{i >> 8}.{i & 255}": 1 for i in range(5000)}))
    session, router = SessionRib(rib, peer(), AGREED, announce=True), Router(AGREED)
    session.end_initial()
    while not session.idle:
        assert router.ends == []
        router.hear(session.take())
    assert len(router.table) == 5000
    assert router.ends == [4, 6]


def test_a_standby_says_nothing_but_end_of_rib():
    rib = group((1, 100, (A,)))
    rib.apply(Announce("all", (), {"10.0.0.1": 1}))
    session, router = SessionRib(rib, peer(), AGREED, announce=False), Router(AGREED)
    session.end_initial()
    router.hear(session.take())
    assert (router.table, router.ends) == ({}, [4, 6])
    session.set_announce(True)
    router.hear(session.take())
    assert list(router.table) == ["10.0.0.1"]
    session.set_announce(False)
    router.hear(session.take())
    assert router.table == {}


def test_a_new_med_is_announced_again():
    rib, router = group((1, 100, (A,)), (2, 99, (A,))), Router(AGREED)
    session = SessionRib(rib, peer(), AGREED, announce=True)
    for number, med in ((1, 100), (2, 99)):
        rib.apply(Announce("all", (), {"10.0.0.1": number}))
        session.touch(iter(["10.0.0.1"]))
        router.hear(session.take())
        assert router.table["10.0.0.1"][1] == ("10.1.0.1", med)


def test_a_router_without_add_path_gets_one_path_and_different_ones_for_different_eips():
    agreed = Negotiated(30, (4,), (), True, 4096, True, "10.9.0.1")
    rib, router = group((1, 100, (A, B, C))), Router(agreed)
    rib.apply(Announce("all", (), {f"10.0.0.{i}": 1 for i in range(30)}))
    session = SessionRib(rib, peer(), agreed, announce=True)
    router.hear(session.take())
    assert {len(paths) for paths in router.table.values()} == {1}
    assert {hop for paths in router.table.values() for hop, _ in paths.values()} == {"10.1.0.1", "10.1.0.2", "10.1.0.3"}


def test_refresh_sends_a_family_again():
    rib, router = group((1, 100, (A,))), Router(AGREED)
    rib.apply(Announce("all", (), {"10.0.0.1": 1}))
    session = SessionRib(rib, peer(), AGREED, announce=True)
    router.hear(session.take())
    router.log.clear()
    session.refresh(4)
    router.hear(session.take())
    assert router.log == [("announce", "10.0.0.1", 1)]


def test_a_change_of_scope_sends_the_difference_only():
    sets = {}
    wide, narrow = GroupRib(sets), GroupRib(sets)
    wide.apply(Announce("all", (PathSet(1, 100, (A, B)),), {"10.0.0.1": 1, "10.0.0.2": 1}))
    narrow.apply(Announce("rack", (PathSet(2, 100, (B,)),), {"10.0.0.1": 2}))
    session, router = SessionRib(wide, peer(), AGREED, announce=True), Router(AGREED)
    router.hear(session.take())
    router.log.clear()
    session.switch(narrow)
    router.hear(session.take())
    assert sorted(router.log) == [("withdraw", "10.0.0.1", 1), ("withdraw", "10.0.0.2", 1), ("withdraw", "10.0.0.2", 2)]
    assert router.table == {"10.0.0.1": {2: ("10.1.0.2", 100)}}


async def _old_sets_are_swept():
    def nobody(settings, protocol):
        raise OSError("no router")

    speaker = Speaker(lambda: None, nobody, lambda: 0.0, lambda _: None)
    for number in range(1, 5000):
        speaker.apply([Announce("all", (PathSet(number, 100, (A,)),), {"10.0.0.1": number, "10.0.0.2": 1})], True)
    return speaker.group("all")


def test_sets_of_paths_that_nothing_uses_are_forgotten():
    """A speaker lives for months, and every change of a node makes new sets."""
    group = asyncio.run(_old_sets_are_swept())
    assert {1, 4999} <= group.sets.keys()
    assert len(group.sets) < 2000
