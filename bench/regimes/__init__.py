"""How the exploiter's networks are built and trained: one module per regime."""
