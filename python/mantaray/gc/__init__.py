"""Garbage collection on Ray's request with short pauses: frozen old heap, full when it hurts nobody."""
