"""Tests of mantaray.logs."""
