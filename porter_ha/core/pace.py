"""How hard to press the API server, by its own signals: additive increase, multiplicative decrease (as TCP does).

An answer lets a little more be in flight; 429 (API priority and fairness) or an answer that took very long halves it,
and a Retry-After is kept. That requests merely queue on a busy server is no such signal: fewer would be slower.
"""

SLOW_S = 1.0
LEAST = 2.0
RESPITE_S = 0.5


class Pace:
    """`limit` is how many may be in flight now, and none is begun before `not_before` (the caller's clock)."""

    def __init__(self, most: int) -> None:
        self.limit = float(most)
        self.not_before = float("-inf")
        self._most = float(most)
        self._lowered_at = float("-inf")

    def answered(self, latency_s: float, now: float) -> None:
        if latency_s > SLOW_S:
            self._lower(now)
        else:
            self.limit = min(self._most, self.limit + 1.0 / self.limit)

    def refused(self, retry_after_s: float, now: float) -> None:
        """429, with the server's Retry-After (0 when it named none)."""
        self._lower(now)
        self.not_before = max(self.not_before, now + max(retry_after_s, RESPITE_S))

    def _lower(self, now: float) -> None:
        if now - self._lowered_at >= RESPITE_S:  # those that were in flight together say the same thing
            self.limit = max(LEAST, self.limit / 2)
            self._lowered_at = now
