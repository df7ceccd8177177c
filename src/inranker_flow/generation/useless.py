"""Answers that mostly hold no query, or that mostly begin alike: the generator does not do what it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.generation import filters, prompts
from inranker_flow.generation.filters import Query
from inranker_flow.words import normal, spaced

#: Answers begin alike that share so many words; fewer documents than the next may well be alike.
_ALIKE, _FEW_DOCUMENTS = 4, 10
#: A simple generator may begin most questions alike, and they are questions all the same.
_ASKING = frozenset(
    "what whats how why when where which who whom whose is are was were do does did can could should would will has have "  # noqa: SIM905
    "in of for at on".split()
)
#: Characters of an answer in a message.
_SHOWN = 120


def queries_of(
    config: GenerateConfig, template: prompts.Template, parts: Sequence[pa.Table], dataset: str
) -> list[Query]:
    """Return the queries in the answers. Refuses answers that mostly hold none, or that mostly begin alike (an unknown
    greeting)."""
    queries, answers = [], []
    for table in parts:
        for doc_id, number, text, probability in _rows(table):
            answers.append(text)
            query = filters.first_line(text, template.chat) if template.answers else text
            queries.append(Query(doc_id, number, query, probability))
    most = config.max_unusable * len(queries)
    useless = [answer for answer, query in zip(answers, queries, strict=True) if not query.text]
    wrong = "hold no query"
    if len(useless) <= most and (beginning := _common_beginning(queries, most)):
        useless = [
            answer for answer, query in zip(answers, queries, strict=True) if _beginning(query.text) == beginning
        ]
        wrong = f"begin alike ({' '.join(beginning)!r})"
    if len(useless) <= most:
        return queries
    samples = " | ".join(_shown(each) for each in useless[:: max(len(useless) // 3, 1)][:3])
    raise CollectionFault(
        f"{config.writer}: {len(useless):,} of its {len(queries):,} answers for {dataset} {wrong}: {samples}; have "
        "generation.prompt ask for the query alone, give a thinking model more generation.max_new_tokens or turn its thinking "
        "off (backend openai: generation.request_fields), or try another checkpoint; generation.max_unusable: 1 goes on all "
        "the same",
        code="queries-useless",
    )


def _common_beginning(queries: Sequence[Query], most: float) -> tuple[str, ...]:
    """With what more than so many queries begin; nothing where they are of too few documents, or questions as they come."""
    if len({each.doc_id for each in queries}) < _FEW_DOCUMENTS:
        return ()
    counts = Counter(_beginning(each.text) for each in queries)
    counts.pop((), None)
    beginning, held = counts.most_common(1)[0] if counts else ((), 0)
    asks = len(beginning) == _ALIKE and beginning[0] in _ASKING
    return beginning if held > most and not asks else ()


def _beginning(text: str) -> tuple[str, ...]:
    """Return the first words of a text."""
    return tuple(normal(spaced(text)).split()[:_ALIKE])


def _shown(text: str) -> str:
    """Return an answer on one line, shortened; "''" is none at all."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


def _rows(table: pa.Table) -> Iterator[tuple[str, int, str, float | None]]:
    names = ("doc_id", "number", "text", "log_probability")
    yield from zip(*(table.column(name).to_pylist() for name in names), strict=True)
