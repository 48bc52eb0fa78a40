"""Never two replicas that act: many elections against one Lease, with lost answers, pauses and lagging watches."""

from hypothesis import given
from hypothesis import strategies as st

from porter_ha.core.lease import Election, LeaseSettings, Read, Record, State, Write

REPLICAS = ("a", "b", "c")
actions = st.lists(
    st.tuples(
        st.sampled_from(REPLICAS),
        st.sampled_from(["step", "step", "step", "step lost answer", "step lost request", "watch", "pause", "restart"]),
        st.floats(0.0, 2.0),
    ),
    max_size=120,
)


class Api:
    """The Lease as the API server has it: compare-and-swap, and a history for watches that lag."""

    def __init__(self):
        self.record, self.version, self.history = None, 0, [None]

    def write(self, step, holder):
        current = self.record.version if self.record else 0
        if step.version != current:
            return None
        self.version += 1
        self.record = Record(holder, step.epoch, self.version)
        self.history.append(self.record)
        return self.record


@given(actions)
def test_never_two_that_act_and_the_epoch_only_rises(sequence):
    api, now, epochs, born = Api(), 1000.0, [], 0
    elections = {name: Election(LeaseSettings(name)) for name in REPLICAS}
    for name, action, delay in sequence:
        now += delay
        election = elections[name]
        if action == "watch":
            seen = api.history[-1 - int(delay) % len(api.history)]
            if seen is not None:
                election.observed(seen, now)
        elif action == "restart":
            born += 1
            elections[name] = Election(LeaseSettings(f"{name}{born}"))
        elif action == "pause":
            now += 3 * delay
        else:
            election.expired(now)
            step = election.step(now)
            if isinstance(step, Read):
                election.observed(api.record, now)
            elif isinstance(step, Write):
                election.sent(now)
                result = None if action.endswith("request") else api.write(step, election.settings.identity)
                if result is None or action.endswith("answer"):
                    election.failed(now + 0.5)
                    election.observed(api.record, now + 0.5)
                else:
                    election.written(result, now)
                    epochs.append(result.epoch)
        acting = [e.settings.identity for e in elections.values() if now < e.acting_until]
        assert len(acting) <= 1, acting
        assert all(e.state is State.LEADER for e in elections.values() if now < e.acting_until)
    assert epochs == sorted(epochs)
