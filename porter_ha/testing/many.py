"""Many seeds on all cores, and what they came to in words."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import click

from porter_ha.testing.simulate import Report, run

LEAST_CHANGES = 10  # a run in which less happens proves nothing


def quietly(seed: int) -> Report:
    """A run whose trace is kept only when it failed: it is large."""
    report = run(seed)
    if report.ok:
        report.trace = []
    return report


def report(seeds: Sequence[int], trace: bool) -> bool:
    """Print every failure, with how to replay it, and a line for all. Whether every run kept every promise."""
    failed = takeovers = writes = changes = idle = 0
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for found in pool.map(run if trace else quietly, seeds, chunksize=4):
            failed += not found.ok
            takeovers, writes, changes = (
                takeovers + found.takeovers,
                writes + found.writes,
                changes + found.changes,
            )
            idle += found.changes < LEAST_CHANGES
            if trace:
                click.echo("\n".join(found.trace))
            if not found.ok:
                click.echo(f"seed {found.seed} failed; replay it with: porter-ha simulate --seed {found.seed}")
                for violation in found.violations[:5]:
                    click.echo(f"  {violation}")
                if found.unconverged:
                    click.echo(f"  not converged after {found.simulated_s} s: {found.unconverged}")
    click.echo(
        f"{len(seeds)} seeds, {failed} failed, {idle} idle: {takeovers} takeovers, {writes} writes, "
        f"{changes} changes of FIBs"
    )
    return not failed
