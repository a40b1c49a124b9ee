"""Evaluation: benchmarks in, metrics out."""
