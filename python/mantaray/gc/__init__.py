"""Garbage collection on Ray's request with short pauses."""
