"""KFP component `prepare_corpus`."""
