"""The Lease as an object: what is read out of it."""

import msgspec

from porter_ha.kube.lease import Announced, seen


def lease(annotations=None, **spec):
    meta = {"name": "porter-ha-leader", "resourceVersion": "42", "annotations": annotations}
    return msgspec.json.encode({"metadata": meta, "spec": spec})


def test_a_lease_in_full():
    found = seen(
        lease({"porter-ha.io/announced": "6 node1"}, holderIdentity="a", leaseTransitions=7, leaseDurationSeconds=5)
    )
    assert (found.record.holder, found.record.epoch, found.record.version, found.record.duration_s) == ("a", 7, 42, 5.0)
    assert found.announced == Announced(6, "node1")


def test_an_empty_lease_or_one_that_somebody_scribbled_on():
    found = seen(lease({"porter-ha.io/announced": "soon"}, holderIdentity=None))
    assert (found.record.holder, found.record.epoch, found.announced, found.hand_over) == ("", 0, Announced(), False)


def test_a_handover_is_asked_of_one_term_only():
    asked = {"porter-ha.io/hand-over": "7"}
    assert seen(lease(asked, holderIdentity="a", leaseTransitions=7)).hand_over
    assert not seen(lease(asked, holderIdentity="a", leaseTransitions=9)).hand_over, "the same replica leads again"
