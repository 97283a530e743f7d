"""What is done for a surrogate, a poison, a purified set and a cell."""
