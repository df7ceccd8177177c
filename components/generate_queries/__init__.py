"""KFP component `generate_queries`."""
