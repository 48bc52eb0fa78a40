"""When a standby may take over before the Lease has expired (design 2.1, early takeover).

What is known of another replica comes over the link between replicas: beats while it lives. A connection that ends
followed by a refused one, or by another replica at its address, proves a death. Silence is only believed while the
Lease was not renewed either: a leader that is merely cut off from us renews. The Lease's compare-and-swap decides all
the same; this only says when to try.

A takeover whose victim turns out to live doubles a back-off, so a partition between two replicas cannot flap.

Leadership follows reach: a leader that lacks a router or cannot see a node, when a standby has and sees all that it
does and more, lets that one lead. A router that the leader alone lacks is served meanwhile by a standby's paths, at a
MED worse than any leader's.
"""

from collections.abc import Container, Iterable

from porter_ha.model.value import Value

BEAT_S = 0.1
SILENT_BEATS = 6
BACKOFF_S = 10.0
BACKOFF_MOST_S = 600.0
UNRENEWED_S = 1.0  # two renewals that did not come
REACH_PATIENCE_S = 3.0  # a session that was reset is back sooner


class Beat(Value, frozen=True):
    """What a replica tells the others, every BEAT_S.

    `sessions` are the peers it has a session with, `served` those of them that have been sent all of its paths, and
    `announcing` the epoch that those paths are of (0: none). `silent` are the nodes that it hears nothing of, `out`
    those that it keeps from being next hops, because they are dead or cannot serve again yet.
    """

    identity: str
    node: str
    epoch: int
    leading: bool
    warm: bool
    fenced: bool
    sessions: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    out: tuple[str, ...] = ()
    served: tuple[str, ...] = ()
    announcing: int = 0


class Known(Value, frozen=True):
    """The last beat of a replica, when it came, and whether its death is proven."""

    beat: Beat
    heard_at: float
    dead: bool = False

    def silent(self, now: float) -> bool:
        return now - self.heard_at >= SILENT_BEATS * BEAT_S


class Doubt(Value, frozen=True):
    """What else is known when a leader is silent: whether its node is dead to us and another replica, and whether we
    hear no other replica of those that may live."""

    node_dead: bool = False
    isolated: bool = False


class EarlyTakeover:
    """Decides, and remembers what came of it."""

    def __init__(self) -> None:
        self._victim = ""
        self._step_s = BACKOFF_S
        self._not_before = float("-inf")

    def may_try(self, me: Beat, leader: Known | None, renewed_at: float, doubt: "Doubt", now: float) -> bool:
        """Whether to write the Lease although it is held by `leader` and has not expired.

        `renewed_at` is when we last saw the Lease change: silence counts when that was before it began, or, should its
        node be dead to us and another replica, when it has been a while: a renewal may have been on its way for long.
        When the other replicas are silent too it is we who are cut off.
        """
        if leader is None or not me.warm or now < self._not_before:
            return False
        if not leader.beat.fenced or set(leader.beat.sessions) - set(me.sessions):
            return False
        if leader.dead:
            return True
        if not leader.silent(now) or doubt.isolated:
            return False
        return renewed_at <= leader.heard_at + BEAT_S or (doubt.node_dead and now - renewed_at >= UNRENEWED_S)

    def may_stand_in(self, me: Beat, leader: Known | None, doubt: Doubt, now: float) -> bool:
        """Whether to announce the last plan although nobody can be elected now: the leader's death is proven, or it is
        silent and so is its node to us and another replica. Nothing is assigned, so no fence is needed."""
        if leader is None or not me.warm or set(leader.beat.sessions) - set(me.sessions):
            return False
        return leader.dead or (doubt.node_dead and leader.silent(now))

    def took_over(self, identity: str, dead: bool, now: float) -> None:
        """We took the Lease from `identity` early."""
        self._victim = "" if dead else identity
        self._not_before = now + (0.0 if dead else self._step_s)

    def heard(self, identity: str, now: float) -> None:
        """A beat came. If it is from one that we took for dead, we were wrong: wait longer the next time."""
        if identity and identity == self._victim:
            self._victim = ""
            self._step_s = min(2 * self._step_s, BACKOFF_MOST_S)
            self._not_before = now + self._step_s


def better(one: Beat, other: Beat) -> bool:
    """Whether `one` would lead better than `other`: it reaches every router and hears every node that the other does,
    and more."""
    routers, others_routers = set(one.sessions), set(other.sessions)
    silent, others_silent = set(one.silent), set(other.silent)
    return (
        one.warm
        and routers >= others_routers
        and silent <= others_silent
        and (routers != others_routers or silent != others_silent)
    )


class StepDown:
    """When a leader should let a better placed standby lead. Waits longer after each time, so that it cannot flap."""

    def __init__(self) -> None:
        self._since = float("inf")
        self._not_before = float("-inf")
        self._step_s = BACKOFF_S

    def due(self, me: Beat, others: Iterable[Beat], now: float) -> bool:
        """Whether it is time. Call it often while leading; True begins the wait before the next time."""
        if not any(better(other, me) for other in others):
            self._since = float("inf")
            return False
        self._since = min(self._since, now)
        if now - self._since < REACH_PATIENCE_S or now < self._not_before:
            return False
        self._since = float("inf")
        self._not_before, self._step_s = now + self._step_s, min(2 * self._step_s, BACKOFF_MOST_S)
        return True


def left_behind(known: Iterable[Known], epoch: int, restart_s: float, now: float) -> dict[str, float]:
    """Node -> until when routers may keep paths that a replica on it announced in a term before `epoch` and did not
    withdraw (it is dead, or has been silent): RFC 4724's restart time from when it was last heard. A replica of the
    same node that is heard and connected again has made routers drop them."""
    back = {k.beat.node for k in known if not k.dead and not k.silent(now) and k.beat.sessions}
    ends: dict[str, float] = {}
    for one in known:
        gone = one.dead or one.silent(now)
        until = one.heard_at + restart_s
        if gone and 0 < one.beat.announcing < epoch and one.beat.node not in back and now < until:
            ends[one.beat.node] = max(until, ends.get(one.beat.node, until))
    return ends


class HotPeers:
    """The routers that a standby serves because the leader does not. `linger_s` is kept after the leader does again."""

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._since: dict[str, tuple[bool, float]] = {}
        self._hot: frozenset[str] = frozenset()

    def update(self, sessions: Iterable[str], served: Container[str] | None, now: float) -> frozenset[str]:
        """`sessions` are ours; `served` those that the leader serves, None while no leader is heard."""
        if served is None:
            return self._hot
        hot = set()
        for peer in sessions:
            state = peer in served
            before, since = self._since.get(peer, (state, now))
            if before != state:
                since = now
            self._since[peer] = (state, since)
            lasted_s = now - since
            if (not state and lasted_s >= REACH_PATIENCE_S) or (peer in self._hot and lasted_s < self._linger_s):
                hot.add(peer)
        self._hot = frozenset(hot)
        return self._hot
