"""Structured logs: one JSON object per line on stderr, written at once, never raising."""

import sys
import time
from collections.abc import Callable

import orjson

_context: dict[str, object] = {}
_sinks: list[Callable[[str, dict[str, object]], None]] = []


def bind(**fields: object) -> None:
    """Fields that every later line of this process carries (process, node)."""
    _context.update(fields)


def divert(sink: Callable[[str, dict[str, object]], None] | None) -> None:
    """Give every line to `sink` instead (a simulation has a time and processes of its own); None ends that."""
    _sinks[:] = [] if sink is None else [sink]


def log(event: str, **fields: object) -> None:
    """One line: the time (Unix seconds), the event in words, and its fields."""
    if _sinks:
        _sinks[0](event, fields)
        return
    line = {"time": round(time.time(), 3), "event": event, **_context, **fields}
    sys.stderr.buffer.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stderr.buffer.flush()
