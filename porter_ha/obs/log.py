"""Structured logs: one JSON object per line on stderr, written at once, never raising."""

import sys
import time

import orjson

_context: dict[str, object] = {}


def bind(**fields: object) -> None:
    """Fields that every later line of this process carries (process, node)."""
    _context.update(fields)


def log(event: str, **fields: object) -> None:
    """One line: the time (Unix seconds), the event in words, and its fields."""
    line = {"time": round(time.time(), 3), "event": event, **_context, **fields}
    sys.stderr.buffer.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stderr.buffer.flush()
