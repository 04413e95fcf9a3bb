"""How knowledge comes in from outside: routes, sources, chunks, and the pipeline through them."""
