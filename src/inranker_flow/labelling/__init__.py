"""Soft labels: the teacher's two logits for every training pair."""

from inranker_flow.labelling.stage import LabelStats, teacher_label

__all__ = ["LabelStats", "teacher_label"]
