"""The Python side of the relay, without Ray."""
