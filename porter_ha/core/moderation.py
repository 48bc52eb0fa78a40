"""When to act on things that come one by one: at once while they are few, on many together when they are many.

As network cards moderate interrupts: to wake a process for each would cost several times what the thing's own work does
(docs/adr/0022). A token bucket of things tells few from many.
"""

STEADY_S = 0.004  # one in so many seconds may be acted on at once for ever,
SPARE_S = 0.064  # and as many more, in a row, as this allows;
GATHER_S = 0.02  # of more than that, what comes in so many seconds is gathered


class Moderation:
    def __init__(self) -> None:
        self._paid_until = float("-inf")

    def wait_s(self, now: float, things: int = 1) -> float:
        """How long these, which come now, wait for others; 0: not at all. To be asked for all things, also for those
        that come while others wait. `now` (the caller's clock) must not go back."""
        paid_until = max(self._paid_until, now - SPARE_S)
        self._paid_until = min(paid_until + things * STEADY_S, now + SPARE_S)  # a flood is soon forgotten
        return GATHER_S if paid_until > now else 0.0
