"""The base of every value: immutable, compared by content, and ready for the wire between our processes."""

import msgspec


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """An immutable value. Subclasses are compared and hashed by content."""
