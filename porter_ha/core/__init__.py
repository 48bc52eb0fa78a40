"""The decisions, as pure functions and state machines. Nothing here does I/O or reads a clock: time is an argument."""
