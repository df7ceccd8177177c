"""Pipelines and their placement, and the commands for a cluster."""
