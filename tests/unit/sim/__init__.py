"""Tests of mantaray.sim."""
