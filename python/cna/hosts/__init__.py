"""A name or a module becomes a model with taps."""
