"""What a run has done so far, for people."""
