"""The MLflow pyfunc of a student: ``predict([{query, passages}]) -> [[score, ...]]``. MLflow runs this file as it is.

Scores are true_logit - false_logit: the order is that of P(true), without its ties near 0 and 1.
"""

from __future__ import annotations

from typing import Any

import mlflow


class Reranker(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A plain Hugging Face folder (artifact ``checkpoint``) behind the project's own ranker."""

    def load_context(self, context: Any) -> None:
        from inranker_flow.config import ScoringConfig, parse
        from inranker_flow.rankers import load_ranker

        scoring = parse(ScoringConfig, dict(context.model_config or {}), "model_config")
        self.ranker = load_ranker(context.artifacts["checkpoint"], scoring)

    # No type hints on the data: MLflow would replace the model's signature by one derived from them.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """``model_input``: a data frame with columns query (string) and passages (list of strings)."""
        queries, passages = list(model_input["query"]), [list(each) for each in model_input["passages"]]
        pairs = [(query, passage) for query, group in zip(queries, passages, strict=True) for passage in group]
        logits = self.ranker.score(pairs)
        scores = iter((logits[:, 1] - logits[:, 0]).tolist())
        return [[next(scores) for _ in group] for group in passages]


mlflow.models.set_model(Reranker())
