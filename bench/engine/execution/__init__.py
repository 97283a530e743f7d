"""The runner, its locks and its events."""
