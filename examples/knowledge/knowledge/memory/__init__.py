"""What the service remembers: the store, the layers above it, the actor that owns them."""
