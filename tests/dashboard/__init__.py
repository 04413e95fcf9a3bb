"""Profiling links: one cluster for all tests of this directory with one Ray."""
