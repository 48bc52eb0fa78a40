"""The base of every value: immutable, compared by content, and ready for the wire between our processes."""

import msgspec


class Value(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An immutable value. Subclasses are compared and hashed by content. What cannot change is in no cycle, so Python's
    collector need not look at it: with many Services it would do little else."""
