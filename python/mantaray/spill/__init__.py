"""Object spilling whose disk use follows the live bytes; see docs/spilling.md.

The engine is native (`mantaray._native`); this package attaches it to Ray and shows what it did.
Nothing here is imported before it is needed: IO workers need the engine, nobody else does.
"""
