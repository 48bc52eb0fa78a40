"""I9: whatever bytes a router sends, the session ends or goes on; nothing is raised."""

from hypothesis import given
from hypothesis import strategies as st

from porter_ha.bgp.codec import ExaWire
from porter_ha.core.session import KEEPALIVE, Close, Kind, Session, State, message
from tests.unit.builders import peer
from tests.unit.test_session import established, router_open

bodies = st.binary(max_size=200)
messages = st.one_of(
    st.builds(message, st.sampled_from(list(Kind)), bodies),
    st.binary(max_size=100),
    st.just(KEEPALIVE),
    st.builds(
        lambda at, value: bytes(b if i != at else value for i, b in enumerate(router_open())),
        st.integers(0, 80),
        st.integers(0, 255),
    ),
)


@given(st.lists(messages, max_size=8), st.booleans())
def test_hostile_bytes_hurt_only_the_session(chunks, up):
    session = established() if up else Session(peer(), ExaWire())
    if not up:
        session.connected(0.0, restarting=False)
    for chunk in chunks:
        outputs = session.received(chunk, 1.0)
        if any(isinstance(o, Close) for o in outputs):
            assert session.state is State.IDLE
            assert session.deadline == float("inf")
