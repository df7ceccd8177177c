"""KFP component `help_generate`."""
