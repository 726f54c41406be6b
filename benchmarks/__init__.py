"""Measurements: speed and memory as ratios within one run; results lie as JSON in benchmarks/results."""
