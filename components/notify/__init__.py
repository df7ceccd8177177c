"""KFP component `notify`."""
