"""What the reconciler wants done, as values: idempotent, and safe to repeat after a crash of whoever carries it out.

`resync` marks what no change of the Service itself asks for (a new term, an edited pool): it may wait behind the rest.
"""

from porter_ha.model.plan import PathSet, Refusal
from porter_ha.model.value import Value


class Assign(Value, frozen=True, tag=True):
    """Write these addresses to the Service's status. With a `serial`, a write of others may be on its way: whoever
    carries this out says when it is done."""

    key: str
    uid: str
    addresses: tuple[str, ...]
    pool: str
    resync: bool = False
    serial: int = 0


class Relinquish(Value, frozen=True, tag=True):
    """Take our addresses out of the status of a Service that no longer asks for them, or that must not have them any
    more and waits for others (then `refusal` says why)."""

    key: str
    uid: str
    addresses: tuple[str, ...]
    resync: bool = False
    refusal: Refusal | None = None


class Explain(Value, frozen=True, tag=True):
    """Tell the Service's owner why it waits: condition and event. `serial` is as in Assign."""

    key: str
    uid: str
    refusal: Refusal
    resync: bool = False
    serial: int = 0


class Announce(Value, frozen=True, tag=True):
    """The Adj-RIB-Out of a group of peers changes: prefix -> number of a PathSet, or None to withdraw."""

    group: str
    sets: tuple[PathSet, ...]
    changes: dict[str, int | None]


ServiceEffect = Assign | Relinquish | Explain
