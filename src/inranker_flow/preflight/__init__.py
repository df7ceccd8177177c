"""What would end a run hours from now, asked in its first seconds."""

from inranker_flow.preflight.stage import PreflightStats, preflight

__all__ = ["PreflightStats", "preflight"]
