"""Which nodes are dead, from probes of our own and the verdicts of the other replicas (design 2.4).

A node is silent here after MISSES probes in a row without an answer, and dead when at least one more replica says the
same: one observer may have lost its own link. A replica is no witness of its own node's death, nor after its own; when
there is no other witness, our own eyes must do. If more than half of the nodes waver at once the observers are wrong,
and nothing new is held dead (I4): nodes that miss WAVERING probes count, for silence that hits many at one moment is
noticed one after another. Coming back takes REJOIN_S of answers, longer for a node that
flaps. Nodes that never answered are not judged: they may not answer probes at all.

What is remembered is about nodes that miss probes; a round over thousands that all answer costs a few set operations.
"""

from collections.abc import Collection, Iterable, Mapping, Set

MISSES = 4
WAVERING = 2
REJOIN_S = 2.0
REJOIN_MOST_S = 60.0


def _others(name: str, witnesses: Mapping[str, frozenset[str] | None]) -> list[frozenset[str] | None]:
    """What the witnesses say, but for the one on the node itself."""
    return [said for node, said in witnesses.items() if node != name]


class Liveness:
    def __init__(self) -> None:
        self._names: set[str] = set()
        self._known: set[str] = set()  # they have answered
        self._missed: dict[str, int] = {}  # how many probes in a row, of those that missed any
        self._answering_since: dict[str, float] = {}  # of the dead ones that answer again
        self._deaths: dict[str, int] = {}
        self._dead: set[str] = set()
        self.holding = False

    def set_nodes(self, names: Iterable[str]) -> None:
        """The nodes that are probed: those that the API says are Ready. A new one starts without a history."""
        wanted = set(names)
        for gone in self._names - wanted:
            for table in (self._missed, self._answering_since, self._deaths):
                table.pop(gone, None)
            self._known.discard(gone)
            self._dead.discard(gone)
        self._names = wanted

    @property
    def nodes(self) -> Set[str]:
        return self._names

    def answered(self, names: Set[str], now: float) -> None:
        """These answer; others are not spoken of."""
        for name in self._missed.keys() & names:
            del self._missed[name]
            if name in self._dead:
                self._answering_since[name] = now
        self._known |= names & self._names

    def missed(self, names: Collection[str]) -> None:
        """One more probe of each without an answer."""
        for name in names:
            if name in self._names:
                self._missed[name] = self._missed.get(name, 0) + 1
                self._answering_since.pop(name, None)

    def silent(self) -> frozenset[str]:
        """The nodes that this replica hears nothing of, whether it ever did or not: its testimony to others."""
        return frozenset(name for name, count in self._missed.items() if count >= MISSES)

    def unheard(self) -> frozenset[str]:
        """The nodes that have never answered this replica. What others say of them is all there is to go by."""
        return frozenset(self._names - self._known)

    def alive(self, name: str) -> bool:
        """Whether this replica hears the node."""
        return name in self._known and self._missed.get(name, 0) < MISSES

    def vouched(
        self, names: Iterable[str], witnesses: Mapping[str, frozenset[str] | None], before: frozenset[str]
    ) -> frozenset[str]:
        """Of these nodes, whose kubelets do not report, those that this replica hears or a witness does (see `judge`).
        One that we cease to hear keeps its good name (`before`) while a witness cannot be asked."""
        found = set()
        for name in names:
            others = _others(name, witnesses)
            said_alive = any(said is not None and name not in said for said in others)
            if self.alive(name) or said_alive or (name in before and None in others):
                found.add(name)
        return frozenset(found)

    def judge(self, witnesses: Mapping[str, frozenset[str] | None], now: float) -> frozenset[str]:
        """The dead nodes. `witnesses` gives, by its node, what every other replica says is silent; None when it is not
        heard itself, which leaves the question open."""
        agreed = set()
        for name in self.silent() & self._known:
            others = _others(name, witnesses)
            if not others or any(said is not None and name in said for said in others):
                agreed.add(name)
        wavering = sum(name in self._known for name, count in self._missed.items() if count >= WAVERING)
        self.holding = wavering * 2 > len(self._names)
        if not self.holding:
            for name in agreed - self._dead:
                self._dead.add(name)
                self._deaths[name] = self._deaths.get(name, 0) + 1
        for name, since in list(self._answering_since.items()):
            patience = min(REJOIN_S * 2.0 ** (self._deaths[name] - 1), REJOIN_MOST_S)
            if now - since >= patience:
                self._dead.discard(name)
                del self._answering_since[name]
        return frozenset(self._dead)
