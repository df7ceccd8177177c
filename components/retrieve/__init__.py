"""KFP component `retrieve`."""
