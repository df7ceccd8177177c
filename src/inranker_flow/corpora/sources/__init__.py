"""Where collections come from: files in several layouts, ir_datasets, published soft labels, the demo world.

A source yields rows in batches with the file and line of each, and reports rows that cannot be read at all. What the
rows mean, and whether they fit together, is checked in one place for all sources: :mod:`inranker_flow.stages.prepare_corpus`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.config.values import LABELLED_TEXTS, LABELS_FORMS
from inranker_flow.corpora.passages import check as check_passages
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources import layout
from inranker_flow.corpora.sources.demo import open_demo
from inranker_flow.corpora.sources.irdatasets import IrDatasets
from inranker_flow.corpora.sources.published import InRankerMsmarco, LabelledTexts, OwnLabels
from inranker_flow.corpora.sources.rows import ROWS, Row, Split
from inranker_flow.corpora.sources.stored import StoredCollection
from inranker_flow.errors import UserError
from inranker_flow.storage import uris

__all__ = [
    "FORMS",
    "ROWS",
    "InRankerMsmarco",
    "IrDatasets",
    "LabelSource",
    "LabelledTexts",
    "Row",
    "Source",
    "Split",
    "StoredCollection",
    "label_source",
    "open_source",
]


#: What is said where an address holds no collection.
FORMS = (
    "give a folder in BEIR layout or of documents (.md, .html, .txt), a table (.parquet, .jsonl, .csv, .tsv), s3://, "
    "hf://datasets/OWNER/NAME, ir_datasets:ID, inranker-beir:FILE or demo:source/SEED"
)


class Source(Protocol):
    """A collection as it lies somewhere."""

    #: Total ``amount`` of the documents' batches, and its unit.
    total: int
    unit: str
    #: Origin of queries that nobody judged and that have published labels.
    labelled_origin: str

    @property
    def not_evaluated(self) -> str:
        """Why nothing of it can be evaluated, as far as is known before it is read; "" where nothing speaks against it, or
        nothing in it is meant to be."""

    def judged(self, split: Split) -> tuple[str, ...]:
        """Return the name of the place that holds judgements of ``split`` alone, for messages."""

    @property
    def judged_together(self) -> tuple[str, ...]:
        """What holds judgements of both splits."""

    def documents(self, problems: Problems) -> Iterator[Rows]:
        """Return columns doc_id, title, text; of passages a fourth, the id of their document."""

    def queries(self, problems: Problems) -> Iterator[Rows]:
        """Return columns query_id, text."""

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        """Return columns query_id, doc_id, relevance."""


class LabelSource(Protocol):
    """Published soft labels."""

    #: Total ``amount`` of the batches, and its unit; how messages call it.
    total: int
    unit: str
    shown: str

    def labels(self, problems: Problems) -> Iterator[Rows]:
        """Return columns query_id, doc_id, false_logit, true_logit."""


#: What follows the scheme -> source.
Opener = Callable[[str, CorpusConfig], AbstractContextManager[Source]]


@contextmanager
def open_source(corpus: CorpusConfig) -> Iterator[tuple[Source, LabelSource | None]]:
    """The source that ``corpus.uri`` names, and its published labels. :class:`UserError` where there is none."""
    scheme, _, rest = corpus.uri.partition(":")
    if scheme != "ir_datasets" and (corpus.text_fields or corpus.query_fields):
        raise UserError(
            f"{corpus.name}: text_fields and query_fields are for ir_datasets:ID alone, not for {corpus.uri}",
            code="setting-conflict",
        )
    if corpus.fields and scheme in _OPENERS:
        raise UserError(
            f"{corpus.name}: fields is for tables in files, not for {corpus.uri}"
            f"{'; set text_fields' if scheme == 'ir_datasets' else ''}",
            code="setting-conflict",
        )
    check_passages(corpus)
    labels = label_source(corpus.labels) if corpus.labels else None
    with _OPENERS.get(scheme, _open_stored)(rest, corpus) as source:
        yield source, source if isinstance(source, LabelledTexts) else labels


def _open_ir_datasets(name: str, corpus: CorpusConfig) -> AbstractContextManager[Source]:
    return nullcontext(IrDatasets(name, corpus))


def _open_labelled(scheme: str) -> Opener:
    """Return the opener of a file that holds texts and labels together."""

    def opened(file: str, corpus: CorpusConfig) -> AbstractContextManager[Source]:
        if corpus.labels:
            raise UserError(
                f"{corpus.name}: {corpus.uri} brings its own labels; remove labels: {corpus.labels}",
                code="setting-conflict",
            )
        return nullcontext(LabelledTexts(file, scheme))

    return opened


def _open_stored(_: str, corpus: CorpusConfig) -> AbstractContextManager[Source]:
    """Return files that lie on a disk or in a store, by what they look like."""
    path = uris.local_copy(corpus.uri)
    if path.is_dir() or (path.is_file() and layout.is_documents(path.name)):
        return nullcontext(StoredCollection(path, corpus.uri, corpus))
    raise BadCollection(f"{corpus.uri}: not a collection; {FORMS}", code="collection-form")


#: Opener for each scheme that is not a place where files are stored: what follows the scheme -> source.
_OPENERS: dict[str, Opener] = {
    "ir_datasets": _open_ir_datasets,
    **{scheme: _open_labelled(scheme) for scheme in LABELLED_TEXTS},
    "demo": open_demo,
}


#: Reader of soft labels by the ids of a collection, for each scheme.
_LABELS: dict[str, Callable[[str], LabelSource]] = {"inranker-msmarco": InRankerMsmarco, "soft-labels": OwnLabels}


def label_source(uri: str) -> LabelSource:
    """Return the soft labels by ids that ``uri`` names."""
    scheme, _, rest = uri.partition(":")
    if scheme not in _LABELS:
        raise UserError(
            f"labels: {uri!r} is not one of the published formats; give {LABELS_FORMS}",
            code="labels-form",
        )
    return _LABELS[scheme](rest)
