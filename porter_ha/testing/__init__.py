"""Simulation: the real manager on a simulated clock, network, API server and routers, under seeded faults."""
