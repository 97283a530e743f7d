"""From a suite file to cells, and to the work that remains."""
