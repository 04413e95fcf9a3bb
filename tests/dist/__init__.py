"""Tests of what `make dist` made: run by `make test-dist`, skipped where there is nothing."""
