"""Collections: where they come from, how they are checked, and the one form they take."""
