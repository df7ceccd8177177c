"""From what a person typed to what the stages are given: profiles, checks, pinned content, keys."""
