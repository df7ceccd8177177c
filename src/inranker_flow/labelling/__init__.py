"""Soft labels: the teacher's two logits for every training pair."""

from inranker_flow.labelling.stage import LabelStats, ShareStats, help_label, teacher_label

__all__ = ["LabelStats", "ShareStats", "help_label", "teacher_label"]
