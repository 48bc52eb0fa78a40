"""When a standby may take over before the Lease has expired (design 2.1, early takeover).

What is known of another replica comes over the link between replicas: beats while it lives. A connection that ends
followed by a refused one, or by another replica at its address, proves a death. Silence is only believed while the
Lease was not renewed either: a leader that is merely cut off from us renews. The Lease's compare-and-swap decides all
the same; this only says when to try.

A takeover whose victim turns out to live doubles a back-off, so a partition between two replicas cannot flap.
"""

from porter_ha.model.value import Value

BEAT_S = 0.1
SILENT_BEATS = 6
BACKOFF_S = 10.0
BACKOFF_MOST_S = 600.0


class Beat(Value, frozen=True):
    """What a replica tells the others, every BEAT_S."""

    identity: str
    node: str
    epoch: int
    leading: bool
    warm: bool
    fenced: bool
    sessions: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


class Known(Value, frozen=True):
    """The last beat of a replica, when it came, and whether its death is proven."""

    beat: Beat
    heard_at: float
    dead: bool = False

    def silent(self, now: float) -> bool:
        return now - self.heard_at >= SILENT_BEATS * BEAT_S


class EarlyTakeover:
    """Decides, and remembers what came of it."""

    def __init__(self) -> None:
        self._victim = ""
        self._step_s = BACKOFF_S
        self._not_before = float("-inf")

    def may_try(self, me: Beat, leader: Known | None, renewed_at: float, now: float) -> bool:
        """Whether to write the Lease although it is held by `leader` and has not expired.

        `renewed_at` is when we last saw the Lease change.
        """
        if leader is None or not me.warm or now < self._not_before:
            return False
        if not leader.beat.fenced or set(leader.beat.sessions) - set(me.sessions):
            return False
        if leader.dead:
            return True
        return leader.silent(now) and renewed_at <= leader.heard_at + BEAT_S

    def may_stand_in(self, me: Beat, leader: Known | None) -> bool:
        """Whether to announce the last plan although nobody can be elected: the leader's death is proven, and the API
        server cannot be reached. Nothing is assigned, so no fence is needed."""
        return leader is not None and leader.dead and me.warm and not set(leader.beat.sessions) - set(me.sessions)

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
