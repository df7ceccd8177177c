"""Published rerankers whose prompt and answers are known, and how a checkpoint is told to be one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from inranker_flow.errors import UserError
from inranker_flow.rankers import templates


@dataclass(frozen=True)
class Family:
    """``name`` is that of its template. ``false`` is empty where the published score is the logit of ``true`` alone.

    ``pattern``: what its checkpoints are called. ``types``: model types of config.json. ``phrase``: words of its prompt,
    by which a chat template is known.
    """

    name: str
    pattern: str
    types: tuple[str, ...]
    false: str
    true: str
    phrase: str


FAMILIES = (
    Family(
        "qwen3-reranker",
        r"qwen3[-_. ]*rerank",
        ("qwen3", "qwen3_moe"),
        "no",
        "yes",
        "Judge whether the Document meets the requirements",
    ),
    Family(
        "mxbai-rerank-v2",
        r"mxbai[-_. ]*rerank\S*[-_. ]v2",
        ("qwen2",),
        "0",
        "1",
        "provide your binary relevance judgment",
    ),
    Family(
        "bge-reranker-v2-gemma",
        r"bge[-_. ]*reranker[-_. ]v2[-_. ]gemma(?!\d)",
        ("gemma",),
        "",
        "Yes",
        "determine whether the passage contains an answer to the query",
    ),
)

#: Model types whose only family here is meant where nothing says otherwise.
_BY_TYPE = {"qwen3": "qwen3-reranker"}

#: Published rerankers that score in a way that is not done here.
OTHERS = (
    (r"ctxl[-_]?rerank", "puts the document before the query"),
    (r"zerank", "has a prompt and a score of its own"),
    (r"rank[-_]?t5", "scores by the logit of <extra_id_10>, without ` Relevant:`"),
    (r"duo[-_]?t5", "compares two documents, and does not score one"),
    (r"list[-_]?t5|lit5|rank[-_]?(zephyr|vicuna|gpt)|jina[-_]reranker[-_]v3", "orders a list, and does not score one"),
    (r"rank[-_]?llama", "is a decoder with a head, which reads a prompt of its own"),
    (r"bge[-_]reranker[-_]v2(\.5)?[-_](minicpm|gemma2)", "scores in its layers, by code of its own"),
    (r"kalm[-_]reranker", "reads the query in its decoder"),
)

#: monoT5s in other words than ▁false and ▁true, as their authors publish them (castorini/pygaggle).
_MONOT5 = (
    (r"mt5[-_](3b[-_]mmarco[-_]en[-_]pt|13b[-_]mmarco)", ("▁", "▁true")),
    (r"ptt5\S*msmarco", ("▁não", "▁sim")),
    (r"mt5\S*m(s)?marco", ("▁no", "▁yes")),
)

#: Words in the names of language models, and of the rerankers that were made of them.
_LINEAGES = (
    "qwen", "gemma", "gemini", "llama", "mistral", "mixtral", "deepseek", "smollm", "phi", "olmo", "granite", "command",
    "falcon", "gpt", "claude", "t5", "modernbert", "deberta",
)  # fmt: skip


def lineage(*names: str) -> str:
    """Return the family of language models that one of ``names`` (a checkpoint's, a model type) speaks of; "" for none."""
    text = " ".join(names).lower()
    return next((each for each in _LINEAGES if re.search(rf"(?<![a-z]){each}|(?<=m){each}|(?<=mono){each}", text)), "")


def named(name: str) -> Family | None:
    """Return the family with that template, by its name or its text."""
    return next((each for each in FAMILIES if name in (each.name, templates.read(each.name))), None)


def monot5_answers(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the two words (false, true) of a monoT5 that has others; None for the usual ones."""
    for pattern, answers in _MONOT5:
        if any(re.search(pattern, name, re.IGNORECASE) for name in names):
            return answers
    return None


def check_known(reference: str, names: Sequence[str]) -> None:
    """Raise :class:`UserError` for a published reranker whose way of scoring is not done here."""
    for pattern, why in OTHERS:
        for name in names:
            if re.search(pattern, name, re.IGNORECASE):
                raise UserError(
                    f"{reference}: {name} {why}, so it would be misread here; give another checkpoint, or set "
                    "teacher.scoring.kind, prompt, true_token and false_token if it answers like one of the known kinds",
                    code="checkpoint-kind",
                )


def find(reference: str, model_type: str, names: Sequence[str], chat: str) -> tuple[Family, str]:
    """Return the family of a causal checkpoint, and by what it is known ("": by its model type alone).

    ``chat`` is the checkpoint's chat template. Raises :class:`UserError` where it cannot be told.
    """
    check_known(reference, names)
    for each in FAMILIES:
        if each.phrase in chat:
            return each, "its chat template"
    for name in names:
        for each in FAMILIES:
            if re.search(each.pattern, name, re.IGNORECASE):
                if model_type not in each.types:
                    raise UserError(
                        f"{reference}: is called {name}, but a {model_type} is no {each.name}; {_remedy()}",
                        code="checkpoint-kind",
                    )
                return each, name
    if model_type in _BY_TYPE:
        return next(each for each in FAMILIES if each.name == _BY_TYPE[model_type]), ""
    raise UserError(
        f"{reference}: a {model_type} that does not say which reranker it is, and each reads a prompt of its own; {_remedy()}",
        code="checkpoint-kind",
    )


def _remedy() -> str:
    return (
        f"set teacher.scoring.prompt to {', '.join(each.name for each in FAMILIES)} or to a template of your own, and "
        "teacher.scoring.true_token and false_token to its answers"
    )
