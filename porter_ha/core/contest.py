"""Another controller that writes the same Services: noticed, so that the two do not undo each other's writes for ever.

A Service that has lost what we recorded in its status LOSSES times within WINDOW_S is left alone for CALM_S, and then
tried once more: losing again begins another calm at once.

Must never take a change of the user's own wishes, or our own withdrawal, for a loss: that is the caller's to know.
"""

from porter_ha.model.plan import Claim

LOSSES = 3
WINDOW_S = 60.0
CALM_S = 300.0


def lost(old: Claim | None, new: Claim) -> bool:
    """Whether somebody took our addresses out of the Service though it still asks for the same."""
    if old is None or old.uid != new.uid or not (old.recorded and old.wants and new.wants) or new.recorded:
        return False
    return wishes(old) == wishes(new)


def wishes(claim: Claim) -> tuple[object, ...]:
    """What its user asks for."""
    return claim.families, claim.all_families, claim.wanted_addresses, claim.wanted_pool, claim.sharing


class Contests:
    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._until: dict[str, float] = {}

    def note(self, key: str, now: float) -> None:
        """The Service has lost our addresses once more."""
        recent = [at for at in self._losses.get(key, ()) if now - at < WINDOW_S]
        self._losses[key] = [*recent, now]
        if len(recent) + 1 >= LOSSES or key in self._until:
            self._until[key] = now + CALM_S

    def contested(self, key: str, now: float) -> bool:
        """Whether it is to be left alone now."""
        return now < self._until.get(key, 0.0)

    def over(self, now: float) -> list[str]:
        """Those whose calm has just ended; each is told of once."""
        ended = [key for key, until in self._until.items() if until <= now and key in self._losses]
        for key in ended:
            del self._losses[key]
        return ended

    def forget(self, key: str) -> None:
        """The Service is gone, or its user wishes something else."""
        self._losses.pop(key, None)
        self._until.pop(key, None)
