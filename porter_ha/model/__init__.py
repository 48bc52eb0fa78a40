"""Values only: what the cluster looks like, what is wanted, and why not. No behaviour that needs a clock or I/O."""
