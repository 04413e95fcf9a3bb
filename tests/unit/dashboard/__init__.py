"""Tests of spilling without Ray: the configuration, the native engine, what lies on disk."""
