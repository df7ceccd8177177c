"""What is around a stage: the wrapper that runs it, artifacts through a store, targets that are left out."""
