"""Synthetic queries for a target corpus (InPars, arXiv 2202.05144)."""

from inranker_flow.generation.stage import GenerateStats, ShareStats, generate_queries, help_generate

__all__ = ["GenerateStats", "ShareStats", "generate_queries", "help_generate"]
