"""Suites become cells, cells become records: planning, running, storing, tracking."""
