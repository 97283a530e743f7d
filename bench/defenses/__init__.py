"""What an exploiter does against poison: one module per defense."""
