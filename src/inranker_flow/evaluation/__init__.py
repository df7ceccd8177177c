"""Measure systems on the same candidates: runs, measures, significance, and the page that shows them."""
