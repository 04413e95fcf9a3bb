"""Tests of what the benchmarks report, without running them."""
