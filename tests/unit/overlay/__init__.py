"""Tests of the overlay, without a real Ray."""
