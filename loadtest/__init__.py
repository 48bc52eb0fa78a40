"""Measurements: benchmarks against the limit of the machine, what single parts cost, plots."""
