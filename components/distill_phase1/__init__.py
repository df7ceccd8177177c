"""KFP component `distill_phase1`."""
