"""The nodes as next hops: what the API says of each, corrected by what probes and agents say, change by change.

A kubelet's heartbeat changes an object and nothing here. The cost of a change does not depend on how many nodes there
are: only nodes that became different are told of.
"""

from msgspec.structs import replace

from porter_ha.core.eligibility import node_view
from porter_ha.model.objects import Node
from porter_ha.model.plan import NodeView
from porter_ha.model.reasons import Reason

Names = frozenset[str]


class Nodes:
    """`addresses` are those of nodes that the API does not call NotReady: the ones to probe. `unknown` are the nodes
    whose kubelets do not report."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.unknown: set[str] = set()
        self._said: dict[str, NodeView] = {}
        self._vouched: Names = frozenset()
        self._silent: Names = frozenset()
        self._rejoining: Names = frozenset()
        self._touched: set[str] = set()

    def set_node(self, name: str, node: Node | None) -> None:
        """What the API says; None: it is gone."""
        view = node_view(node) if node is not None else None
        if view == self._said.get(name):
            return
        self._touched.add(name)
        self._said.pop(name, None)
        self.addresses.pop(name, None)
        self.unknown.discard(name)
        if view is None:
            return
        self._said[name] = view
        if view.refusal is not Reason.NODE_NOT_READY and view.addresses:
            self.addresses[name] = view.addresses[0]
        if view.refusal is Reason.NODE_UNKNOWN:
            self.unknown.add(name)

    def judge(self, *, vouched: Names, silent: Names, rejoining: Names) -> None:
        """What we know better: nodes that live although their kubelets are silent, that are dead although the API says
        Ready, and that answer but cannot serve yet."""
        self._touched |= (vouched ^ self._vouched) | (silent ^ self._silent) | (rejoining ^ self._rejoining)
        self._vouched, self._silent, self._rejoining = vouched, silent, rejoining

    def drain(self) -> dict[str, NodeView | None]:
        """The nodes that may be different since the last call."""
        touched, self._touched = self._touched, set()
        return {name: self._view(name) for name in touched}

    def _view(self, name: str) -> NodeView | None:
        view = self._said.get(name)
        if view is None:
            return None
        if name in self._vouched:
            view = replace(view, refusal=None)
        for names, reason in ((self._silent, Reason.NODE_SILENT), (self._rejoining, Reason.NODE_REJOINING)):
            if view.refusal in (None, Reason.NODE_DRAINING) and name in names:  # the dead do not drain
                view = replace(view, refusal=reason)
        return view
