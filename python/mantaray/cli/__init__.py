"""The `mantaray` command: thin, it parses, calls and prints."""
