"""The sections of the leaderboard: each module has the tables of one section and writes them in markdown."""
