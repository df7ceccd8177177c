"""What was computed before: below INRANKER_STORE for every run, else in scratch."""
