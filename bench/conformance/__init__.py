"""Checks that hold a part to its contract."""
