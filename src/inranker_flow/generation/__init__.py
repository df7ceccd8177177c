"""Synthetic queries for a target corpus (InPars, arXiv 2202.05144)."""
