"""KFP component `preflight`."""
