"""The section of a profile that says what the first stage is, and the sections inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from inranker_flow.config.parsing import deciding
from inranker_flow.config.rules import NO_RESULT, Range
from inranker_flow.config.values import (
    ENCODING,
    MOST,
    Concurrency,
    Count,
    FirstStageName,
    Positive,
    Prompt,
    Retries,
    ServerAddress,
    Share,
    Timeout,
)


@dataclass(frozen=True)
class DenseConfig:
    """A bi-encoder, whose vectors of query and passage are compared (`first_stage: dense` and `hybrid`)."""

    #: Folder, s3:// or hub id of a checkpoint that sentence-transformers has saved: its modules.json and 1_Pooling/config.json
    #: say how it pools, config_sentence_transformers.json which prompts it has.
    checkpoint: str = ""
    #: Hub revision, or the content digest of a local folder (filled in at submission).
    revision: str = ""
    #: Tokens of a text at most; 0: as the checkpoint says (sentence_bert_config.json), which is the most in any case.
    max_length: Annotated[int, Range(0, 131_072)] = 0
    #: auto: bfloat16 on a GPU that computes in it, otherwise float32. Vectors are float32 either way.
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    #: Padded tokens in one batch; 0 picks a value for the device.
    batch_tokens: Annotated[int, Range(0, MOST), NO_RESULT] = 0


@dataclass(frozen=True)
class SearchServerConfig:
    """An index of OpenSearch or Elasticsearch (`first_stage: opensearch`)."""

    #: The address before the index: http://HOST:9200. Its key is SEARCH_API_KEY's value: a token (sent as `Bearer`), or a whole
    #: header such as `ApiKey ...` or `Basic ...`.
    endpoint: ServerAddress = ""
    #: The index, or an alias of it. Its documents are the collection's, by the same ids.
    index: str = ""
    #: Any text that changes when the index does: what was found is then asked for anew.
    revision: str = ""
    #: The body of a search: a template in JSON, or the path of one, with "{query}" in the place of the query's text. How many
    #: hits are asked for, and which of their fields, is added to it.
    body: Prompt = '{"query": {"match": {"text": "{query}"}}}'
    #: The field that holds a document's id in the collection; empty: the index's own `_id`.
    id_field: str = ""
    #: Queries in one request.
    request_queries: Annotated[int, Range(1, 1000), NO_RESULT] = 16
    #: Requests that are under way at a time.
    concurrency: Concurrency = 8
    #: Seconds until a request counts as lost.
    request_timeout: Timeout = 60.0
    #: How often a lost request, or one whose answer is partial, is sent again.
    retries: Retries = 8


@dataclass(frozen=True)
class BandsConfig:
    """Negatives by rank, instead of `negatives`: neither the nearest passages, of which many are relevant and not judged, nor
    the far ones teach alone (SimANS, arXiv 2210.11773). All 0: `negatives` of all ranks alike, as InRanker draws."""

    #: Negatives of the best ranks.
    top: Count = 0
    #: Negatives of the ranks behind them.
    middle: Count = 0
    #: Negatives of all ranks.
    random: Count = 0
    #: What the best ranks are: this share of the passages that a query finds (100 of 1,000).
    top_share: Share = 0.1
    #: What the middle ends at (500 of 1,000).
    middle_share: Share = 0.5


@dataclass(frozen=True)
class RetrieveConfig:
    """The first stage: what finds candidates and negatives. By itself BM25 as Anserini runs it (k1 = 0.9, b = 0.4)."""

    #: What finds a query's passages, for candidates and negatives alike. bm25: words. dense: vectors of a bi-encoder
    #: (`retrieval.dense`). hybrid: both. run: the run files of the collection (its `runs`). opensearch: an index of OpenSearch or
    #: Elasticsearch (`retrieval.server`).
    first_stage: FirstStageName = "bm25"
    #: More first stages, whose candidates for the test queries every system reranks too: the same systems side by side, on what
    #: BM25 finds and on what a team's own retriever finds. Training is by `first_stage` alone.
    also: tuple[FirstStageName, ...] = ()
    dense: DenseConfig = DenseConfig()
    server: SearchServerConfig = SearchServerConfig()
    #: hybrid: a passage at rank r of either counts 1 / (`rrf_k` + r) (Cormack, Clarke and Buettcher, SIGIR 2009: 60).
    rrf_k: Annotated[float, Range(0, 1e6)] = 60.0
    #: BM25's k1: how soon more of the same word in a passage stops to count (Anserini: 0.9).
    k1: Annotated[float, Range(0, 100)] = 0.9
    #: BM25's b: how much a passage's length counts (Anserini: 0.4).
    b: Share = 0.4
    #: Language whose stop words are left out; empty leaves out none. A collection's `language` comes first.
    stopwords: str = "english"
    #: Language of the stemmer; empty leaves words as they are. A collection's `language` comes first.
    stemmer: str = "english"
    #: Passage lengths as Lucene keeps them, in one byte, so that scores are Anserini's. Otherwise they are exact.
    lucene_lengths: bool = False
    #: Negatives are drawn from so many best passages of each training query (InRanker: BM25's top 1,000).
    depth: Positive = 1000
    #: Negatives for each training query (InRanker: 9).
    negatives: Count = 9
    #: Negatives by rank, instead.
    bands: BandsConfig = BandsConfig()
    #: `retrain`: a query that is as it was when an earlier run labelled it keeps its negatives while this share of
    #: them is still in the corpus; then all are drawn anew.
    keep_share: Share = 0.6
    #: Candidates for each test query, the same for every system that is evaluated.
    test_depth: Positive = 100
    #: The stage ends where more than this share of the training or of the test queries find nothing at all, which is how
    #: a wrong language shows. 1: never.
    max_without_hits: Share = 0.5
    #: Seed of the draw of negatives.
    seed: Count = 0

    @property
    def wanted(self) -> int:
        """Negatives for each training query."""
        return self.bands.top + self.bands.middle + self.bands.random or self.negatives

    @property
    def stages(self) -> tuple[FirstStageName, ...]:
        """All first stages, each once."""
        return tuple(dict.fromkeys((self.first_stage, *self.also)))

    @property
    def demanding(self) -> FirstStageName:
        """The first stage that asks most of a pod: torch and GPUs, else a key, else nothing."""
        most = (
            *(each for each in self.stages if each in ENCODING),
            *(each for each in self.stages if each == "opensearch"),
        )
        return next(iter(most), self.first_stage)

    @property
    def encoder(self) -> DenseConfig | None:
        """The bi-encoder, where a first stage is one or has one."""
        return self.dense if self.demanding in ENCODING else None

    @property
    def drawing(self) -> dict[str, Any]:
        """Settings that decide which negatives a query has, as data; what the first stage does without is not among them, so
        that a setting which came later leaves the draws of earlier runs as they were."""
        plain = deciding(self)
        for name in ("also", "keep_share", "test_depth", "max_without_hits"):
            del plain[name]
        for name in _UNUSED[self.first_stage]:
            del plain[name]
        if self.bands == BandsConfig():
            del plain["bands"]
        if self.first_stage == "bm25":
            del plain["first_stage"]
        return plain


_WORDS = ("k1", "b", "stopwords", "stemmer", "lucene_lengths")
#: Settings that each first stage does without.
_UNUSED: dict[str, tuple[str, ...]] = {
    "bm25": ("dense", "server", "rrf_k"),
    "dense": (*_WORDS, "server", "rrf_k"),
    "hybrid": ("server",),
    "run": (*_WORDS, "dense", "server", "rrf_k"),
    "opensearch": (*_WORDS, "dense", "rrf_k"),
}
