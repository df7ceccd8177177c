"""Models that are registered: versions and what they are served with, who changed what serves, the card."""
