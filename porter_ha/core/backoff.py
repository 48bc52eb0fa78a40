"""Waiting longer after each failure, with jitter so that many waiters do not act at once."""

from collections.abc import Callable


class Backoff:
    """Delays first, 2*first, ... up to most (seconds), each between a half and the whole of its step.

    `random` gives numbers in [0, 1); it is an argument so that simulations replay.
    """

    def __init__(self, first: float, most: float, random: Callable[[], float]) -> None:
        self._first, self._most, self._random = first, most, random
        self._failures = 0

    def next(self) -> float:
        step = min(self._most, self._first * 2.0**self._failures)
        self._failures = min(self._failures + 1, 32)
        return step * (0.5 + self._random() / 2)

    def reset(self) -> None:
        self._failures = 0
