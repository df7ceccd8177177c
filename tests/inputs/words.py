"""Generation's answers, and languages: what the stages `generate_queries` and `retrieve` make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inranker_flow.stages.generate_queries import generate_queries
from inranker_flow.stages.retrieve import retrieve
from tests import languages, models
from tests.generation_server import GenerationServer
from tests.inputs.table import Artifact, Input, stage

CHINESE, RUSSIAN = languages.sample("chinese"), languages.sample("russian")
#: Passage -> its query.
ASKED = dict(zip(CHINESE.passages, CHINESE.queries, strict=True))
#: How answers of a model begin that nobody has seen yet.
ODD = "Mit Vergnügen antworte ich darauf"


def collection(here: Path, passages: list[str], queries: list[str]) -> Artifact:
    """A collection whose queries are for testing."""
    folder = here / "collection"
    documents = {f"d{i}": text for i, text in enumerate(passages)}
    models.collection(folder, documents, {f"q{i}": ("test", text) for i, text in enumerate(queries)})
    return Artifact(folder)


def searched(passages: list[str], queries: list[str], language: str = "", **settings: Any) -> Callable[[Path], int]:
    """Run `retrieve`."""
    return lambda here: stage(
        retrieve,
        configs={"config": settings},
        inputs={"collection": collection(here, passages, queries), "queries": None},
        outputs={"candidates": Artifact(here / "candidates")},
        language=language,
    )


def told_apart(name: str, passages: str = "NFC", queries: str = "NFC", language: str = "") -> Input:
    """A collection in a language, whose test queries all find something."""
    sample = languages.sample(name, passages, queries)
    return Input(
        f"{name}, passages in {passages}, queries in {queries}, language {language!r}",
        searched(sample.passages, sample.queries, language),
        ("test_queries 42", "test_queries_without_hits 0", "done in"),
        status=0,
    )


def written(
    answer: Callable[[str], str | None] = str,
    passages: list[str] = CHINESE.passages,
    corpus: dict[str, Any] | None = None,
    **settings: Any,
) -> Callable[[Path], int]:
    """Run `generate_queries` with a server that answers each prompt (the document) so."""

    def act(here: Path) -> int:
        with GenerationServer(answer=lambda prompt: answer(prompt.split("\n")[-1])) as server:
            given = {
                "checkpoint": "writer",
                "backend": "openai",
                "endpoint": f"{server.url}/v1",
                "prompt": "---\nchat: true\n---\n{document}",
            }
            return stage(
                generate_queries,
                configs={
                    "config": {**given, **settings},
                    "corpus": {"uri": "u", "name": "toy", **(corpus or {})},
                    "retrieval": {},
                },
                inputs={"collection": collection(here, passages, [])},
                outputs={"queries": Artifact(here / "queries"), "report": Artifact(here / "report.md")},
            )

    return act


def form(text: str) -> Callable[[str], str]:
    """An answer with the beginning of the document where ``@`` stands."""
    return lambda document: text.replace("@", document[:14])


def used(what: str, text: str, **settings: Any) -> Input:
    """An answer whose query is taken; every document has its own."""
    return Input(what, written(form(text), NUMBERED, **settings), ("queries 20", "empty 0", "done in"), status=0)


NUMBERED = [f"{i:02} stones in a river" for i in range(20)]
QUERY = "why are there @"

INPUTS = [
    *(told_apart(name) for name in languages.NAMES),
    told_apart("portuguese", "NFD"),
    told_apart("portuguese", "NFD", language="pt"),
    told_apart("vietnamese", "NFC", "NFD"),
    told_apart("korean", "NFKD"),
    told_apart("hindi", language="hindi"),
    told_apart("chinese", language="zh"),
    told_apart("arabic", language="none"),
    Input(
        "passages in Russian, queries in Chinese",
        searched(RUSSIAN.passages, CHINESE.queries),
        (
            "42 of 42 test queries (100%) find nothing, such as '河流提供饮用水吗？'",
            "Then set `language` of the collection",
        ),
    ),
    Input(
        "the same, which is allowed",
        searched(RUSSIAN.passages, CHINESE.queries, max_without_hits=1),
        ("42 of 42 test queries (100%) find nothing", "test_queries_without_hits 42"),
        status=0,
    ),
    Input(
        "queries of punctuation alone",
        searched(RUSSIAN.passages, ["???", "…", "-"]),
        ("3 of 3 test queries (100%) find nothing, such as '???'",),
    ),
    Input(
        "queries of stop words alone",
        searched(["the moon"], ["what is the", "of the"]),
        ("2 of 2 test queries (100%) find nothing, such as 'what is the'", "stop words 'english'"),
    ),
    Input(
        "no stop words, so that these find something",
        searched(["the moon"], ["what is the", "of the"], stopwords=""),
        ("test_queries_without_hits 0",),
        status=0,
    ),
    Input(
        "Latin words within Chinese text",
        searched(["使用Python编程", "Ｃ语言入门", "今年５月"], ["python", "c 语言", "5月"]),
        ("test_queries_without_hits 0",),
        status=0,
    ),
    Input(
        "a share above one", searched(["a"], ["b"], max_without_hits=1.5), ("config.max_without_hits: 1.5 is above 1",)
    ),
    Input(
        "a language that nobody knows",
        searched(["a"], ["b"], "klingon"),
        ("language: 'klingon' is no language that is known", "ISO"),
    ),
    Input(
        "a stemmer that nobody knows", searched(["moon"], ["moon"], stemmer="klingon"), ("stemmer: 'klingon'", "hindi")
    ),
    Input(
        "a collection's language that nobody knows",
        written(corpus={"language": "portugues"}),
        ("corpus.language: 'portugues' is no language", "give one of arabic"),
    ),
    Input(
        "language: no, which YAML reads as false",
        written(corpus={"language": False}),
        ("corpus.language: expected str",),
    ),
    used("a closing mark of thought alone", f"The user wants a query.\n</think>\n\n{QUERY}"),
    used("a thought in small brackets", f"<seed:think>hm\n</seed:think>\n{QUERY}"),
    used("channels", f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{QUERY}"),
    used("a list", f"1. {QUERY}\n2. another"),
    used("JSON in a fence", f'Sure!\n```json\n{{"queries": ["{QUERY}", "another"]}}\n```'),
    used("a bold label", f"**Search query:** {QUERY}"),
    used("tags", f"<query>\n{QUERY}\n</query>"),
    used("an end mark and another turn", f"{QUERY}<|im_end|>\n<|im_start|>user\nThanks"),
    used("an odd beginning, which is allowed", f"{ODD}: @", max_unusable=1),
    Input(
        "a greeting that nobody knows",
        written(form(f"{ODD}: @")),
        (f"42 of its 42 answers for toy begin alike ('{ODD.lower()[:18]}", "| 'Mit Vergnügen", "generation.prompt"),
    ),
    Input(
        "refusals",
        written(form("I'm sorry, but I cannot help with this document.")),
        ("42 of its 42 answers for toy hold no query", "'I'm sorry, but"[1:], "generation.max_unusable: 1"),
    ),
    Input(
        "thoughts that do not end",
        written(form("<think>\nOkay, the user gives me @")),
        ("hold no query", "generation.max_new_tokens", "generation.request_fields"),
    ),
    Input(
        "refusals, which are allowed and leave nothing",
        written(form("我无法回答"), max_unusable=1, min_query_words=9),
        ("none of its 42 queries for toy can be used (42 too short dropped)",),
    ),
    Input("empty answers", written(form("")), ("42 of its 42 answers for toy hold no query: '' | '' | ''",)),
    Input(
        "Chinese queries under a least number of words",
        written(ASKED.get, min_query_words=3),
        ("queries 42", "too_short 0"),
        status=0,
    ),
    Input(
        "Chinese queries that must find their document",
        written(
            ASKED.get,
            corpus={"language": "chinese"},
            consistency_depth=1,
        ),
        ("queries 42", "inconsistent 0"),
        status=0,
    ),
    Input(
        "Chinese documents that are too short",
        written(passages=["河流", "灯塔在北方"], min_document_words=4),
        ("no document of toy has 4 words or more (2 are shorter)",),
    ),
    Input(
        "fields of a request that are the backend's",
        written(request_fields={"model": "x", "stream": True}),
        ("generation.request_fields: model, stream cannot be set there",),
    ),
    Input(
        "fields of a request as a list",
        written(request_fields=["a"]),
        ("config.request_fields: expected names with values",),
    ),
    Input(
        "fields of a request for a model on this machine",
        written(request_fields={"top_k": 1}, backend="transformers"),
        ("generation.request_fields: are for the backend openai, and this is transformers",),
    ),
    Input(
        "fields of a request that are no JSON",
        written(request_fields={"a": {"b": float("nan")}}),
        ("config.request_fields.a.b: nan (float) is nothing that JSON can say",),
    ),
    used("fields of a request", QUERY, request_fields={"chat_template_kwargs": {"enable_thinking": False}}),
]
