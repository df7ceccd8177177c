"""Soft labels: the teacher's two logits for every training pair."""
