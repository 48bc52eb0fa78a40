"""Leader election by a Kubernetes Lease, as a state machine without I/O (KEP-589's object, not client-go's elector).

A replica feeds it what it saw of the Lease and how its own requests ended; it says what to do next. All times are the
caller's monotonic seconds: another machine's clock is never compared with ours, so a clock that jumps changes nothing.

Invariants
  At most one replica may act: `acting_until` ends before any other replica can have waited the lease out.
  The epoch never falls: it is raised with every change of holder, and is the fencing token of everything written.
  A request whose fate is unknown (timeout) is taken as not done by us, and as done by others.
"""

from enum import Enum

from porter_ha.model.value import Value

MAX_DURATION_S = 60.0


class LeaseSettings(Value, frozen=True):
    """Seconds. `margin_s` is kept between the end of a term, by its clock or by a proven death, and the first moment
    another may choose anything new: what was sent before may still arrive."""

    identity: str
    duration_s: float = 5.0
    renew_s: float = 0.5
    request_timeout_s: float = 1.0
    margin_s: float = 1.0


class Record(Value, frozen=True):
    """The Lease as read: who holds it, its epoch, and the resourceVersion to compare-and-swap against.

    Resource versions of one object are compared as numbers (KEP-5504), so a watch that lags cannot take us back.
    """

    holder: str
    epoch: int
    version: int
    duration_s: float = 5.0


class State(Enum):
    """FOLLOWER watches; CANDIDATE has a write in flight to become leader; LEADER holds the Lease; RESIGNED is done."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    RESIGNED = "resigned"


_MOVES: dict[State, frozenset[State]] = {
    State.FOLLOWER: frozenset({State.CANDIDATE, State.RESIGNED}),
    State.CANDIDATE: frozenset({State.LEADER, State.FOLLOWER, State.RESIGNED}),
    State.LEADER: frozenset({State.FOLLOWER, State.RESIGNED}),
    State.RESIGNED: frozenset(),
}


class Wait(Value, frozen=True, tag=True):
    """Nothing to do before this moment (or before the Lease is seen to change)."""

    until: float


class Write(Value, frozen=True, tag=True):
    """Write the Lease with this epoch, comparing against `version`; 0 creates it."""

    epoch: int
    version: int
    acquire: bool


class Read(Value, frozen=True, tag=True):
    """Read the Lease: what is known of it is out of date."""


Step = Wait | Write | Read


class Election:
    def __init__(self, settings: LeaseSettings) -> None:
        self.settings = settings
        self.state = State.FOLLOWER
        self.epoch = 0
        self._record: Record | None = None
        self._absent = False
        self._seen_at = 0.0
        self._renewed_at = float("-inf")
        self._sent_at = 0.0
        self._presumed_dead, self._ended_at = "", float("inf")
        self._yield_until = float("-inf")
        self._earlier_end = float("-inf")  # when all terms before the one that the Lease shows must have ended
        self.free_from = float("-inf")  # from when on our term may choose anything new

    # -- what the caller learns

    @property
    def acting_until(self) -> float:
        """The moment at which the API door closes by itself; in the past unless we lead."""
        if self.state is not State.LEADER:
            return float("-inf")
        return self._renewed_at + self.settings.duration_s - self.settings.margin_s

    @property
    def holder(self) -> str:
        return self._record.holder if self._record else ""

    @property
    def seen_epoch(self) -> int:
        """The highest epoch that the Lease has shown."""
        return self._record.epoch if self._record else 0

    @property
    def renewed_at(self) -> float:
        """When the Lease was last seen to change."""
        return self._seen_at

    # -- what the caller tells

    def presume_dead(self, identity: str, ended_at: float = float("inf")) -> bool:
        """The holder is thought to be dead: the Lease may be taken before it expires. Whether that is news. `ended_at`
        is when its process was known to be gone, if that is proven: it has sent nothing since."""
        news = self._presumed_dead != identity
        self._ended_at = ended_at if news else min(ended_at, self._ended_at)
        self._presumed_dead = identity
        return news

    def abandon(self, floor: int) -> None:
        """Our term's number was used before: give it up, and begin one above `floor`."""
        if self.state is State.LEADER:
            self._move(State.FOLLOWER)
        self._record = Record("", max(floor, self.seen_epoch), self._record.version if self._record else 0)

    def yield_until(self, moment: float) -> None:
        """Do not try to lead before this moment: somebody else should."""
        self._yield_until = moment

    def observed(self, record: Record | None, now: float, floor: int = 0) -> None:
        """The Lease as read or watched; None when it does not exist, and then no epoch up to `floor` is used again."""
        if record is None:
            self._remember_term()
            self._absent = True
            self._record = Record("", max(floor, self.seen_epoch), 0)
        elif self._record is not None and not self._absent and record.version <= self._record.version:
            return
        else:
            epoch = max(record.epoch, self.seen_epoch)
            self._shows(Record(record.holder, epoch, record.version, record.duration_s), now)
        if self.state is State.LEADER and self.holder != self.settings.identity:
            self._move(State.FOLLOWER)

    def sent(self, now: float) -> None:
        """A Write is leaving now. Our term is counted from here: the server may take it as early as this."""
        self._sent_at = now
        if self.state is State.FOLLOWER:
            self._move(State.CANDIDATE)

    def written(self, record: Record, now: float) -> None:
        """Our Write was accepted."""
        self._shows(record, now)
        self._renewed_at = self._sent_at
        self._presumed_dead = ""
        if self.state is State.CANDIDATE:
            self.epoch = record.epoch
            self._move(State.LEADER)

    def failed(self, now: float) -> None:
        """Our Write was refused or its fate is unknown: read before anything else."""
        if self.state is State.CANDIDATE:
            self._move(State.FOLLOWER)

    def expired(self, now: float) -> bool:
        """Whether our own term is over by our own clock; steps down if so."""
        if self.state is State.LEADER and now >= self.acting_until:
            self._move(State.FOLLOWER)
            return True
        return False

    def release(self) -> Write | None:
        """Give the Lease up. Returns the write that frees it, when we hold it."""
        record = self._record
        if self.state is not State.LEADER or record is None:
            return None
        self._move(State.FOLLOWER)
        return Write(self.epoch, record.version, acquire=False)

    def resign(self) -> Write | None:
        """As `release`, and never lead again."""
        step = self.release()
        if self.state is not State.RESIGNED:
            self._move(State.RESIGNED)
        return step

    def step(self, now: float) -> Step:
        """What to do now."""
        settings = self.settings
        if self.state is State.RESIGNED or self.state is State.CANDIDATE:
            return Wait(now + settings.duration_s)
        if self.state is State.LEADER:
            due = self._renewed_at + settings.renew_s
            if self._sent_at > self._renewed_at:  # the last renewal failed: try again soon, but not in a tight loop
                due = self._sent_at + settings.renew_s / 2
            if now < due:
                return Wait(due)
            assert self._record is not None
            return Write(self.epoch, self._record.version, acquire=False)
        if self._record is None and not self._absent:
            return Read()
        known = self._record
        if now < self._yield_until:
            return Wait(self._yield_until)
        end = self._term_end()
        if now < end and self.holder != self._presumed_dead:
            return Wait(end)
        self.free_from = max(end, self._earlier_end)
        version = known.version if known is not None and not self._absent else 0
        return Write((known.epoch if known else 0) + 1, version, acquire=True)

    def _term_end(self) -> float:
        """When the term that the Lease shows must have ended; long ago if it shows none."""
        known, settings = self._record, self.settings
        if known is None or not known.holder:
            return float("-inf")
        # Another's setting is respected, but not a number that would keep everybody out for ever.
        expiry = self._seen_at + max(min(known.duration_s, MAX_DURATION_S), settings.duration_s)
        if known.holder != self._presumed_dead:
            return expiry
        return min(expiry, max(self._ended_at, self._seen_at) + settings.margin_s)

    def _shows(self, record: Record, now: float) -> None:
        """The Lease is this now."""
        if record.epoch > self.seen_epoch:
            self._remember_term()
        self._record, self._absent, self._seen_at = record, False, now

    def _remember_term(self) -> None:
        """Another term begins before this one may have ended. Our own has: we know that we lead no more."""
        if self.holder != self.settings.identity:
            self._earlier_end = max(self._earlier_end, self._term_end())

    def _move(self, to: State) -> None:
        assert to in _MOVES[self.state], f"{self.state} -> {to}"
        self.state = to
