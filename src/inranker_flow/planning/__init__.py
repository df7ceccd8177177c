"""What a run will take before it is started, and how that compares with what it took."""
