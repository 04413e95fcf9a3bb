"""Reference counting without Ray: the library through its binding, and the explorer."""
