"""A manager replica: elects, supervises its workers, feeds the reconciler, and lets effects through the gate."""
