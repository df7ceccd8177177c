"""KFP component `promote`."""
