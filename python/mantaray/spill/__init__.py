"""Object spilling whose disk use follows the live bytes; see docs/spilling.md.

The engine is native (`mantaray._native`). This package attaches it to Ray and shows what it did.
Modules are imported when they are needed, because only IO workers need the engine.
"""
