"""Tests of the router patch that need no Ray."""
