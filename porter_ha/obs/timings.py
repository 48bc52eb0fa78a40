"""Durations counted into buckets, as plain counters that a worker's heartbeat can carry (Prometheus' histograms)."""

from collections.abc import Iterator, Mapping, MutableMapping

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_MARKS = (*(f"{bound:g}" for bound in BOUNDS_S), "+Inf")
_SUM = "sum"
Buckets = tuple[tuple[str, float], ...]


def observe(counters: MutableMapping[str, float], name: str, seconds: float) -> None:
    """Count one duration."""
    mark = next((m for m, bound in zip(_MARKS, BOUNDS_S, strict=False) if seconds <= bound), _MARKS[-1])
    for part, more in ((mark, 1.0), (_SUM, seconds)):
        counters[f"{name} {part}"] = counters.get(f"{name} {part}", 0.0) + more


def is_timing(counter: str) -> bool:
    """Whether a counter is a part of a timing."""
    return " " in counter


def timings(counters: Mapping[str, float]) -> Iterator[tuple[str, Buckets, float]]:
    """(name, cumulative buckets, sum of seconds) of each timing in the counters."""
    for counter, total in counters.items():
        name, _, part = counter.partition(" ")
        if part == _SUM:
            count, buckets = 0.0, []
            for mark in _MARKS:
                count += counters.get(f"{name} {mark}", 0.0)
                buckets.append((mark, count))
            yield name, tuple(buckets), total
