"""The Lease state machine, on a clock of the test's own."""

import pytest

from porter_ha.core.lease import Election, LeaseSettings, Read, Record, State, Wait, Write

SETTINGS = LeaseSettings("me", duration_s=5.0, renew_s=0.5, request_timeout_s=1.0, margin_s=1.0)


def lead(now: float = 100.0) -> Election:
    election = Election(SETTINGS)
    election.observed(None, now)
    step = election.step(now)
    assert step == Write(1, 0, acquire=True)
    election.sent(now)
    election.written(Record("me", 1, 10), now + 0.1)
    return election


def test_an_unknown_lease_is_read_first():
    assert Election(SETTINGS).step(0.0) == Read()


def test_a_free_lease_is_taken_with_the_next_epoch():
    election = Election(SETTINGS)
    election.observed(Record("", 7, 42), 0.0)
    assert election.step(0.0) == Write(8, 42, acquire=True)


def test_another_holder_is_waited_out_on_our_own_clock():
    election = Election(SETTINGS)
    election.observed(Record("other", 3, 42), 10.0)
    assert election.step(11.0) == Wait(15.0)
    election.observed(Record("other", 3, 43), 14.0)  # it renewed
    assert election.step(15.5) == Wait(19.0)
    assert election.step(19.0) == Write(4, 43, acquire=True)


def test_a_longer_lease_of_the_other_is_respected():
    election = Election(SETTINGS)
    election.observed(Record("other", 3, 42, duration_s=15.0), 0.0)
    assert election.step(14.9) == Wait(15.0)


def test_our_term_is_counted_from_the_sending_of_the_renewal_and_ends_before_the_lease():
    election = lead(100.0)
    assert election.state is State.LEADER
    assert election.acting_until == 104.0  # sent at 100 + 5 s - 1 s margin
    assert not election.expired(103.9)
    assert election.expired(104.0)
    assert election.state is State.FOLLOWER
    assert election.acting_until == float("-inf")


def test_no_two_replicas_may_act_at_once_even_if_every_answer_is_lost():
    ours, theirs = lead(100.0), Election(LeaseSettings("them"))
    theirs.observed(Record("me", 1, 10), 100.0)  # the earliest moment at which they can have seen our write
    ours.sent(100.5)  # a renewal that hangs for ever
    step = theirs.step(100.5)
    assert isinstance(step, Wait)
    assert step.until > ours.acting_until


def test_a_lagging_watch_does_not_take_us_back():
    election = lead(100.0)
    election.observed(Record("other", 0, 9), 100.2)  # an event from before we acquired it
    assert election.state is State.LEADER


def test_a_newer_holder_ends_our_term_at_once():
    election = lead(100.0)
    election.observed(Record("other", 2, 11), 101.0)
    assert election.state is State.FOLLOWER
    assert election.seen_epoch == 2


def test_a_deleted_lease_is_made_again_with_a_higher_epoch():
    election = lead(100.0)
    election.observed(None, 101.0)
    assert election.state is State.FOLLOWER
    assert election.step(101.0) == Write(2, 0, acquire=True)


def test_a_failed_acquisition_reads_before_it_tries_again():
    election = Election(SETTINGS)
    election.observed(Record("", 7, 42), 0.0)
    election.sent(0.0)
    assert election.state is State.CANDIDATE
    election.failed(0.1)
    election.observed(Record("other", 8, 43), 0.2)
    assert isinstance(election.step(0.3), Wait)


def test_a_failed_renewal_is_tried_again_soon_but_not_at_once():
    election = lead(100.0)
    election.sent(100.5)
    election.failed(101.5)
    assert election.step(100.6) == Wait(100.75)
    assert election.step(101.5) == Write(1, 10, acquire=False)


def test_resigning_frees_the_lease_once_and_for_good():
    election = lead(100.0)
    assert election.resign() == Write(1, 10, acquire=False)
    assert election.resign() is None
    assert isinstance(election.step(101.0), Wait)


def test_moves_outside_the_table_are_refused():
    election = Election(SETTINGS)
    with pytest.raises(AssertionError, match="FOLLOWER"):
        election._move(State.LEADER)
