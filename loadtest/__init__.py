"""Load and measurements: Service churn under locust, benchmarks against the limit of the machine, costs, plots."""
