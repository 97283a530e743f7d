"""From records to tables: pandas only, so that a board renders on a machine without torch."""
