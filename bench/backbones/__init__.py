"""Network architectures of victims and surrogates: one module per family."""
