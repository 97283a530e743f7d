"""The sections of the leaderboard."""
