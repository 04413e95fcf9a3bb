"""Tests of what nodes report of their patches."""
