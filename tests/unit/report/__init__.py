"""Tests of `mantaray report`."""
