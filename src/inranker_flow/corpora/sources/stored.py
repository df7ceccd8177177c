"""Collections that lie in files, in whatever layout :mod:`.layout` finds them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.passages import USUAL, Size
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources import beir, layout, mapped, parquet, texts
from inranker_flow.corpora.sources.rows import Split
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)


class StoredCollection:
    """A folder with documents, perhaps queries and judgements, or a file of documents.

    BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`, each perhaps packed), the hub's (folders of JSON
    lines or Parquet), Parquet files with the tables of :mod:`inranker_flow.artifacts.tables`, and mixtures of them. Tables
    whose columns have other names (`CorpusConfig.fields`), and documents as they are: files of text in a folder.
    A judgement in a file that names no split belongs to the split that its column ``split`` names, else to its query's
    ``origin``, else to test.
    """

    labelled_origin = "supervised"

    def __init__(self, path: Path, shown: str, corpus: CorpusConfig, known: layout.Layout | None = None) -> None:
        """Look at what lies in ``path``; ``known``: the part of a folder that is to be read."""
        self.folder, self.shown, self.corpus = path, shown.rstrip("/"), corpus
        #: Splits that the column ``split`` of judgements was seen to name.
        self._column: set[str] = set()
        if known:
            self.layout = known
            self._sizes = {name: self._path(name).stat().st_size for name in known.documents}
        elif path.is_dir():
            try:
                files, others = layout.local_files(path)
            except OSError as error:
                raise UserError(
                    f"{self.shown}: cannot be listed: {error.strerror}; check the disk and its rights",
                    code="disk-unreadable",
                ) from error
            self.layout = layout.find(files, self.shown, corpus, others)
            self._sizes = files
            if self.layout.beside and self.layout.of("test"):
                log.info("%s: not read: %s", self.shown, layout.listed(self.layout.beside))
            if self.layout.again:
                log.warning("%s: %s", self.shown, self.layout.not_again)
        else:
            self.layout = layout.Layout(documents=("",), texts=not layout.is_table(path.name))
            self._sizes = {"": path.stat().st_size}
        if self.layout.texts:
            texts.check_converter(map(self._file, self.layout.documents), self.shown)
            if corpus.fields:
                raise UserError(
                    f"{self.shown}: holds files of text and no table, so fields says nothing of it; leave it out, or give the "
                    "table",
                    code="setting-conflict",
                )
        if self.layout.unread:
            kinds = Counter(PurePosixPath(name).suffix or name for name in self.layout.unread)
            told = layout.listed(f"{count:,} {kind}" for kind, count in kinds.most_common())
            log.info("%s: no documents, and not read: %s", self.shown, told)
        packed = {self._form(name) == "parquet" for name in self.layout.documents}
        if packed == {True}:
            self.unit = "documents"
            self.total = sum(parquet.count(self._path(name), self._name(name)) for name in self.layout.documents)
        else:
            self.unit = "bytes"
            self.total = sum(self._sizes[name] for name in self.layout.documents)

    def _path(self, name: str) -> Path:
        return self.folder / name if name else self.folder

    def _name(self, name: str) -> str:
        return f"{self.shown}/{layout.printable(name)}" if name else self.shown

    def _file(self, name: str) -> str:
        return name or self.folder.name

    def _form(self, name: str) -> layout.Form:
        return layout.form(self._file(name))

    @property
    def not_evaluated(self) -> str:
        others = self._column - {self.corpus.train_split.lower()}
        if others and self.corpus.test_split.lower() not in others:
            said = layout.listed(sorted(others))
            return f"{self._name(self.layout.shared[0])}: its column split names {said}, which nobody asks for (set test_split)"
        return self.layout.not_evaluated

    def judged(self, split: Split) -> tuple[str, ...]:
        return tuple(self._name(name) for name in self.layout.judgements.get(split, ()))

    @property
    def judged_together(self) -> tuple[str, ...]:
        return tuple(self._name(name) for name in self.layout.shared)

    def documents(self, problems: Problems) -> Iterator[Rows]:
        if self.layout.texts:
            files = [
                texts.TextFile(self._file(name), self._path(name), self._name(name), self._sizes[name])
                for name in self.layout.documents
            ]
            yield from texts.documents(files, self.shown, Size.of(self.corpus, USUAL), problems)
            return
        for name in self.layout.documents:
            yield from self._table(name, problems)

    def _table(self, name: str, problems: Problems) -> Iterator[Rows]:
        path, shown, asked = self._path(name), self._name(name), self.corpus.fields
        form = self._form(name)
        if form in ("csv", "columns"):
            return mapped.delimited(path, shown, asked, "" if form == "csv" else "\t", problems)
        if form == "parquet":
            return mapped.columns(path, shown, asked, problems) if asked else parquet.documents(path, shown, problems)
        return mapped.json_lines(path, shown, asked, problems) if asked else beir.documents(path, shown, problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        for name in self.layout.queries:
            read = parquet.queries if self._form(name) == "parquet" else beir.queries
            yield from read(self._path(name), self._name(name), problems)

    @cached_property
    def _origins(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self.layout.queries:
            if self._form(name) == "parquet":
                found |= parquet.origins(self._path(name), self._name(name))
        return found

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        for name in self.layout.judgements.get(split, ()):
            path, shown, form = self._path(name), self._name(name), self._form(name)
            if form == "parquet":
                yield from parquet.judgements(path, shown, problems)
            else:
                yield from beir.judgements(path, shown, form, problems)
        if self.layout.shared:
            yield from self._shared_judgements(split, problems)

    def _shared_judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        names = {"train": self.corpus.train_split.lower(), "test": self.corpus.test_split.lower()}
        seen = self._column

        def belongs(query_id: str, where: str | None) -> bool:
            if where is None:
                return split == ("train" if self._origins.get(query_id) == "supervised" else "test")
            seen.add(where.lower())
            return where.lower() == names[split]

        for name in self.layout.shared:
            yield from parquet.judgements(self._path(name), self._name(name), problems, belongs)
        # A name that was set, and is not there, is a mistake; the names that nobody set need not be there both.
        lost = [asked for each, asked in names.items() if asked not in seen and asked != each]
        if seen and (lost or not seen & set(names.values())):
            raise BadCollection(
                f"{self._name(self.layout.shared[0])}: its column split holds {layout.listed(sorted(seen))} but not "
                f"{lost[0] if lost else ' or '.join(names.values())}; set train_split or test_split",
                code="collection-split",
            )
