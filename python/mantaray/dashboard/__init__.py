"""Profiling links of Ray's dashboard that lead to the right process when nodes share an address."""
