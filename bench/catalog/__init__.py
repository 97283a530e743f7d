"""Every part by its name: the table, choices in suites, building and describing parts."""
