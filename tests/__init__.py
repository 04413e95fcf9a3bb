"""Everything that pytest runs. Live tests import what they share as `tests.support`."""
