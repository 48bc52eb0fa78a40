"""Which nodes are dead, from probes of our own and the verdicts of the other replicas (design 2.4).

A node is silent here after MISSES probes in a row without an answer, and dead when at least one more replica says the
same: one observer may have lost its own link. A replica is no witness of its own node's death, nor after its own; when
there is no other witness, our own eyes must do. If more than half of the nodes waver at once the observers are wrong,
and nothing new is held dead (I4): nodes that miss WAVERING probes count, for silence that hits many at one moment is
noticed one after another. Coming back takes REJOIN_S of answers, longer for a node that
flaps. Nodes that never answered are not judged: they may not answer probes at all.
"""

from collections.abc import Iterable, Mapping

MISSES = 4
WAVERING = 2
REJOIN_S = 2.0
REJOIN_MOST_S = 60.0


class _Node:
    def __init__(self) -> None:
        self.known = False
        self.missed = 0
        self.answering_since = float("inf")
        self.deaths = 0


def _others(name: str, witnesses: Mapping[str, frozenset[str] | None]) -> list[frozenset[str] | None]:
    """What the witnesses say, but for the one on the node itself."""
    return [said for node, said in witnesses.items() if node != name]


class Liveness:
    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._dead: set[str] = set()
        self.holding = False

    def set_nodes(self, names: Iterable[str]) -> None:
        """The nodes that are probed: those that the API says are Ready. A new one starts without a history."""
        wanted = set(names)
        for gone in self._nodes.keys() - wanted:
            del self._nodes[gone]
            self._dead.discard(gone)
        for name in wanted - self._nodes.keys():
            self._nodes[name] = _Node()

    @property
    def nodes(self) -> Iterable[str]:
        return self._nodes.keys()

    def answered(self, name: str, now: float) -> None:
        node = self._nodes.get(name)
        if node is None:
            return
        if node.missed or not node.known:
            node.answering_since = now
        node.known, node.missed = True, 0

    def missed(self, name: str) -> int:
        """One more probe without an answer; returns how many in a row."""
        node = self._nodes.get(name)
        if node is None:
            return 0
        node.missed += 1
        return node.missed

    def silent(self) -> frozenset[str]:
        """The nodes that this replica hears nothing of, whether it ever did or not: its testimony to others."""
        return frozenset(name for name, node in self._nodes.items() if node.missed >= MISSES)

    def unheard(self) -> frozenset[str]:
        """The nodes that have never answered this replica. What others say of them is all there is to go by."""
        return frozenset(name for name, node in self._nodes.items() if not node.known)

    def alive(self, name: str) -> bool:
        """Whether this replica hears the node."""
        node = self._nodes.get(name)
        return node is not None and node.known and node.missed < MISSES

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
        for name in self.silent() - self.unheard():
            others = _others(name, witnesses)
            if not others or any(said is not None and name in said for said in others):
                agreed.add(name)
        wavering = sum(node.known and node.missed >= WAVERING for node in self._nodes.values())
        self.holding = wavering * 2 > len(self._nodes)
        if not self.holding:
            for name in agreed - self._dead:
                self._dead.add(name)
                self._nodes[name].deaths += 1
        for name in list(self._dead):
            node = self._nodes[name]
            patience = min(REJOIN_S * 2.0 ** (node.deaths - 1), REJOIN_MOST_S)
            if not node.missed and now - node.answering_since >= patience:
                self._dead.discard(name)
        return frozenset(self._dead)
