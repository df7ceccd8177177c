"""Synthetic queries for a target corpus (InPars, arXiv 2202.05144)."""

from inranker_flow.generation.stage import GenerateStats, generate_queries

__all__ = ["GenerateStats", "generate_queries"]
