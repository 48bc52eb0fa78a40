"""When a standby may take the Lease before it expires, and when it must not."""

from msgspec.structs import replace

from porter_ha.core.handover import (
    BACKOFF_S,
    BEAT_S,
    REACH_PATIENCE_S,
    SILENT_BEATS,
    UNRENEWED_S,
    Beat,
    Doubt,
    EarlyTakeover,
    HotPeers,
    Known,
    StepDown,
    better,
    left_behind,
)
from porter_ha.core.lease import Election, LeaseSettings, Record, Wait, Write

ME = Beat("me", "n1", 1, leading=False, warm=True, fenced=False, sessions=("r1", "r2"))
LEADER = Beat("leader", "n2", 1, leading=True, warm=True, fenced=True, sessions=("r1", "r2"))
DEAD = Known(LEADER, heard_at=10.0, dead=True)
SILENCE_S = SILENT_BEATS * BEAT_S


def may(me=ME, leader=DEAD, renewed_at=9.9, now=10.0, early=None, **doubt):
    return (early or EarlyTakeover()).may_try(me, leader, renewed_at, Doubt(**doubt), now)


def test_a_proven_death_is_acted_on_at_once():
    assert may()


def test_silence_counts_only_while_the_lease_is_not_renewed_either():
    silent = Known(LEADER, heard_at=10.0)
    assert not may(leader=silent, now=10.01 + SILENCE_S - 0.05)
    assert may(leader=silent, now=10.01 + SILENCE_S)
    assert not may(leader=silent, now=10.01 + SILENCE_S, renewed_at=10.0 + 2 * BEAT_S)


def test_a_late_renewal_of_a_leader_whose_node_is_dead_delays_and_does_not_forbid():
    silent = Known(LEADER, heard_at=10.0)
    assert not may(leader=silent, now=11.0, renewed_at=10.5, node_dead=True)
    assert may(leader=silent, now=10.51 + UNRENEWED_S, renewed_at=10.5, node_dead=True)
    assert not may(leader=silent, now=10.51 + UNRENEWED_S, renewed_at=10.5)


def test_one_that_hears_nobody_is_cut_off_itself():
    silent = Known(LEADER, heard_at=10.0)
    assert not may(leader=silent, now=10.01 + SILENCE_S, isolated=True)
    assert may(isolated=True), "a proven death needs no witness"


def test_who_may_not():
    assert not may(me=replace(ME, warm=False))
    assert not may(me=replace(ME, sessions=("r1",))), "it lacks a router that the leader had"
    assert not may(leader=None)
    assert not may(leader=replace(DEAD, beat=replace(LEADER, fenced=False)))


def test_standing_in_needs_a_proven_death_and_the_same_routers_but_no_fence():
    def may_stand_in(me=ME, leader=DEAD, now=10.0, **doubt):
        return EarlyTakeover().may_stand_in(me, leader, Doubt(**doubt), now)

    assert may_stand_in(leader=replace(DEAD, beat=replace(LEADER, fenced=False)))
    assert not may_stand_in(leader=replace(DEAD, dead=False))
    assert not may_stand_in(me=replace(ME, sessions=()))
    assert not may_stand_in(leader=None)
    silent = replace(DEAD, dead=False)
    assert may_stand_in(leader=silent, node_dead=True, now=10.01 + SILENCE_S), "silent, and its node too"
    assert not may_stand_in(leader=silent, node_dead=True), "it is heard"
    assert not may_stand_in(leader=silent, now=10.01 + SILENCE_S), "its node lives"


def test_taking_over_from_one_that_lives_doubles_the_back_off():
    early, now = EarlyTakeover(), 100.0
    for wait in (2 * BACKOFF_S, 4 * BACKOFF_S, 8 * BACKOFF_S):
        early.took_over("leader", dead=False, now=now)
        early.heard("leader", now + 1)
        assert not may(early=early, now=now + 1 + wait - 0.1)
        now += 1 + wait
        assert may(early=early, now=now)


def test_a_presumed_dead_holder_does_not_keep_the_lease_and_its_term_is_still_waited_out():
    election = Election(LeaseSettings("me"))
    election.observed(Record("leader", 4, 40), 100.0)
    assert isinstance(election.step(101.0), Wait)
    assert election.presume_dead("leader")
    assert not election.presume_dead("leader")
    assert election.step(101.0) == Write(5, 40, acquire=True)
    assert election.free_from == 105.0, "nothing new is assigned before the old term must have ended"
    election.observed(Record("other", 5, 41), 101.1)
    assert isinstance(election.step(101.2), Wait), "another standby was faster"


def test_of_a_process_that_is_gone_only_what_is_on_its_way_is_waited_out():
    election = Election(LeaseSettings("me", margin_s=1.0))
    election.observed(Record("leader", 4, 40), 100.0)
    election.presume_dead("leader", 100.3)
    election.presume_dead("leader", 100.8)  # told again: it ended when it did
    assert election.step(100.4) == Write(5, 40, acquire=True)
    assert election.free_from == 101.3
    election.observed(Record("leader", 4, 41), 100.9)
    assert election.step(100.9) == Write(5, 41, acquire=True)
    assert election.free_from == 101.9, "a renewal was on its way: so may be other writes"


def test_a_death_that_is_proven_late_never_makes_the_term_longer():
    election = Election(LeaseSettings("me"))
    election.observed(Record("leader", 4, 40), 100.0)
    election.presume_dead("leader")
    election.presume_dead("leader", 104.5)
    election.step(104.6)
    assert election.free_from == 105.0


def test_a_frozen_leaders_term_is_waited_out_though_its_successor_is_proven_dead():
    election = Election(LeaseSettings("me"))
    election.observed(Record("frozen", 4, 40), 100.0)
    election.observed(Record("other", 5, 41), 100.7)  # by early takeover
    election.presume_dead("other", 101.0)
    assert election.step(101.0) == Write(6, 41, acquire=True)
    assert election.free_from == 105.0
    election.sent(101.0)
    election.written(Record("me", 6, 42), 101.1)
    election.observed(Record("third", 7, 43), 101.5)
    election.presume_dead("third", 101.6)
    election.step(101.7)
    assert election.free_from == 105.0, "not of our own term, which we know to be over"


def test_a_lease_that_is_deleted_ends_nobodys_term():
    election = Election(LeaseSettings("me"))
    election.observed(Record("leader", 4, 40), 100.0)
    election.observed(None, 101.0, floor=4)
    assert election.step(101.0) == Write(5, 0, acquire=True)
    assert election.free_from == 105.0


def test_a_lease_that_is_released_is_free_at_once():
    election = Election(LeaseSettings("me"))
    election.observed(Record("leader", 4, 40), 100.0)
    election.observed(Record("", 4, 41), 101.0)
    assert election.step(101.0) == Write(5, 41, acquire=True)
    assert election.free_from <= 101.0


def test_the_proof_of_one_leaders_death_is_none_of_the_nexts():
    election = Election(LeaseSettings("me"))
    election.observed(Record("leader", 4, 40), 100.0)
    election.presume_dead("leader", 100.1)
    election.observed(Record("other", 5, 41), 100.2)
    election.presume_dead("other")
    election.step(100.3)
    assert election.free_from == 105.2


def test_a_term_that_was_used_before_is_abandoned_for_a_later_one():
    election = Election(LeaseSettings("me"))
    election.observed(None, 100.0, floor=7)
    assert election.step(100.0) == Write(8, 0, acquire=True)
    election.sent(100.0)
    election.written(Record("me", 8, 50), 100.0)
    election.abandon(11)
    assert election.step(100.0) == Write(12, 50, acquire=True)


def test_a_replica_that_yields_lets_the_others_try():
    election = Election(LeaseSettings("me"))
    election.observed(Record("", 1, 10), 100.0)
    election.sent(100.0)
    election.written(Record("me", 2, 11), 100.0)
    election.yield_until(110.0)
    assert election.release() == Write(2, 11, acquire=False)
    election.observed(Record("", 2, 12), 100.1)
    assert election.step(101.0) == Wait(110.0)
    assert election.step(110.0) == Write(3, 12, acquire=True)


def test_who_leads_better_reaches_every_router_and_sees_every_node_and_more():
    lame = replace(ME, sessions=("r1",))
    assert better(ME, lame)
    assert not better(lame, ME)
    assert not better(ME, ME)
    assert not better(replace(ME, warm=False), lame)
    assert better(ME, replace(ME, silent=("n3",))), "it sees a node that the other does not"
    assert not better(replace(ME, silent=("n3",)), lame), "each has something that the other lacks"


def test_a_leader_steps_down_for_one_that_leads_better_and_not_again_soon():
    due, lame, now = StepDown(), replace(LEADER, sessions=("r1",)), 100.0
    assert not due.due(lame, [ME], now)
    assert not due.due(lame, [ME], now + REACH_PATIENCE_S - 0.1)
    assert not due.due(LEADER, [ME], now + REACH_PATIENCE_S), "the session came back"
    assert not due.due(lame, [ME], now + REACH_PATIENCE_S)
    assert due.due(lame, [ME], now + 2 * REACH_PATIENCE_S)
    now += 2 * REACH_PATIENCE_S
    assert not due.due(lame, [ME], now + 0.1)
    assert not due.due(lame, [ME], now + BACKOFF_S - 0.1)
    assert due.due(lame, [ME], now + BACKOFF_S)


def test_a_router_that_the_leader_does_not_serve_is_served_by_a_standby_until_it_has_been_served_for_a_while():
    hot, now = HotPeers(linger_s=5.0), 100.0
    served = {"r1": True}
    assert hot.update(("r1", "r2"), served, now) == frozenset()
    assert hot.update(("r1", "r2"), served, now + REACH_PATIENCE_S) == {"r2"}
    assert hot.update(("r1", "r2"), None, now + 4.0) == {"r2"}, "no leader is heard: all stays as it is"
    served = {"r1": True, "r2": True}
    assert hot.update(("r1", "r2"), served, now + 5.0) == {"r2"}
    assert hot.update(("r1", "r2"), served, now + 9.9) == {"r2"}
    assert hot.update(("r1", "r2"), served, now + 10.0) == frozenset()


def test_paths_of_a_replica_that_is_gone_are_told_of_until_they_end_or_it_is_back():
    gone = Known(replace(LEADER, announcing=3), heard_at=100.0, dead=True)
    assert left_behind([gone], 4, 120.0, 101.0) == {"n2": 220.0}
    assert left_behind([gone], 3, 120.0, 101.0) == {}, "its paths are those of this term"
    assert left_behind([gone], 4, 120.0, 220.0) == {}
    withdrawn = replace(gone, beat=replace(LEADER, announcing=0))
    assert left_behind([withdrawn], 4, 120.0, 101.0) == {}
    successor = Known(replace(LEADER, identity="next"), heard_at=101.0)
    assert left_behind([gone, successor], 4, 120.0, 101.0) == {}, "its End-of-RIB made routers drop them"
