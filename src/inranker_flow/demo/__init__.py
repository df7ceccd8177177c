"""The miniature world: two tiny corpora and three tiny models that show what the two phases do, on a CPU."""
