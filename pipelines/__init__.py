"""Pipelines, their profiles and placement, and the commands around them."""
