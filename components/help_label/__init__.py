"""KFP component `help_label`."""
