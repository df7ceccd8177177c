"""Measure systems on the same candidates: runs, measures, significance, and the page that shows them."""

from inranker_flow.evaluation.chart import chart_svg
from inranker_flow.evaluation.stage import EvaluateStats, evaluate

__all__ = ["EvaluateStats", "chart_svg", "evaluate"]
