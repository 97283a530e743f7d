"""Every part by its name: the table of parts, choices in suites, building and describing parts."""
