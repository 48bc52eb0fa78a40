"""When a standby may take the Lease before it expires, and when it must not."""

from msgspec.structs import replace

from porter_ha.core.handover import BACKOFF_S, BEAT_S, SILENT_BEATS, Beat, EarlyTakeover, Known
from porter_ha.core.lease import Election, LeaseSettings, Record, Wait, Write

ME = Beat("me", "n1", 1, leading=False, warm=True, fenced=False, sessions=("r1", "r2"))
LEADER = Beat("leader", "n2", 1, leading=True, warm=True, fenced=True, sessions=("r1", "r2"))
DEAD = Known(LEADER, heard_at=10.0, dead=True)
SILENCE_S = SILENT_BEATS * BEAT_S


def may(me=ME, leader=DEAD, renewed_at=9.9, now=10.0, early=None):
    return (early or EarlyTakeover()).may_try(me, leader, renewed_at, now)


def test_a_proven_death_is_acted_on_at_once():
    assert may()


def test_silence_counts_only_while_the_lease_is_not_renewed_either():
    silent = Known(LEADER, heard_at=10.0)
    assert not may(leader=silent, now=10.0 + SILENCE_S - 0.05)
    assert may(leader=silent, now=10.01 + SILENCE_S)
    assert not may(leader=silent, now=10.01 + SILENCE_S, renewed_at=10.0 + 2 * BEAT_S)


def test_who_may_not():
    assert not may(me=replace(ME, warm=False))
    assert not may(me=replace(ME, sessions=("r1",))), "it lacks a router that the leader had"
    assert not may(leader=None)
    assert not may(leader=replace(DEAD, beat=replace(LEADER, fenced=False)))


def test_standing_in_needs_a_proven_death_and_the_same_routers_but_no_fence():
    early = EarlyTakeover()
    unfenced = replace(DEAD, beat=replace(LEADER, fenced=False))
    assert early.may_stand_in(ME, unfenced)
    assert not early.may_stand_in(ME, replace(unfenced, dead=False))
    assert not early.may_stand_in(replace(ME, sessions=()), unfenced)
    assert not early.may_stand_in(ME, None)


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
