"""KFP component `distill_phase2`."""
