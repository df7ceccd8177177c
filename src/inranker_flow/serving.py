"""The MLflow pyfunc of a student: ``predict([{query, passages}]) -> [[score, ...]]``. MLflow runs this file as it is.

Scores are true_logit - false_logit: the order is that of P(true), without its ties near 0 and 1.
"""

from __future__ import annotations

from typing import Any

import mlflow


class Reranker(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A plain Hugging Face folder (artifact ``checkpoint``) behind the project's own ranker.

    The folder says how its model reads. MLflow's ``model_config`` says the rest: passages of long documents, and how it is
    computed.
    """

    def load_context(self, context: Any) -> None:
        from pathlib import Path

        from inranker_flow import reading
        from inranker_flow.config import ScoringConfig, parse
        from inranker_flow.rankers import load_ranker

        given = dict(context.model_config or {})
        passages = {name: given.pop(name) for name in ("passage_words", "passage_stride") if name in given}
        self.passages = parse(reading.Served, passages, "model_config").passages
        folder = context.artifacts["checkpoint"]
        scoring = reading.scoring_of(Path(folder), parse(ScoringConfig, given, "model_config"))
        self.ranker = load_ranker(folder, scoring)

    # No type hints on the data: MLflow would replace the model's signature by one derived from them.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """``model_input``: a data frame with columns query (string) and passages (list of strings)."""
        queries, passages = list(model_input["query"]), [list(each) for each in model_input["passages"]]
        # A long text is as good as its best passage, as in the evaluation.
        parts = [[self.passages.cut(text) for text in group] for group in passages]
        pairs = [
            (query, part) for query, group in zip(queries, parts, strict=True) for texts in group for part in texts
        ]
        logits = self.ranker.score(pairs)
        scores = iter((logits[:, 1] - logits[:, 0]).tolist())
        return [[max([next(scores) for _ in texts]) for texts in group] for group in parts]


mlflow.models.set_model(Reranker())
