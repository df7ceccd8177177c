"""Which files of a folder hold a collection's documents, queries and judgements, told by their names alone.

So the reader, preflight, discovery and the plan say the same of a folder, on a disk or in S3, before anything is read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.problems import BadCollection
from inranker_flow.corpora.sources.rows import Split
from inranker_flow.storage.local import LINKS

Form = Literal["jsonl", "columns", "csv", "parquet", ""]
TextForm = Literal["plain", "markdown", "html", "office", ""]

#: What a person says of a corpus, in its folder.
SETTINGS = "corpus.yaml"
#: Suffixes of files that are packed.
PACKED = (".gz", ".zst")
#: What a file is read as, by its suffix (before that of its packing).
_FORMS: dict[str, Form] = {
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".tsv", ".txt", ".trec", ".qrels", ".qrel"), "columns"),
    ".csv": "csv",
    ".parquet": "parquet",
}
#: What a file of text is read as, each of which is a document; the first may be packed.
_TEXTS: dict[str, TextForm] = {
    ".txt": "plain", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html",
}  # fmt: skip
_OFFICE: dict[str, TextForm] = {".pdf": "office", ".docx": "office"}
#: Names of splits that files outside a folder of judgements may have.
_SPLITS = {"train", "training", "test", "dev", "devel", "development", "val", "valid", "validation", "eval", "trial"}
#: In the name of a file with judgements, and of a folder with such files (the hub's are NAME-qrels).
_QRELS, _IN_QRELS = re.compile(r"qrels?"), re.compile(r"(?:^|[-_.])qrels?(?:$|[-_.])")
_SHARD = re.compile(r"[-_.](\d+)-of-(\d+)$")
#: Parts of names that say nothing about the split.
_PLAIN = re.compile(r"(?:part|data)?[-_.]?\d*")
#: Names that a message gives at most.
_LISTED = 6


@dataclass(frozen=True)
class Layout:
    """Names of files relative to the folder. ``judgements`` of each split; ``shared``: of both, told by a column.

    ``beside`` are judgements that are not read, with ``why``. ``texts``: each document is a file of text; ``unread`` are the
    files that are none. ``again``: more tables that are called as those that are read, such as corpus.jsonl.gz beside
    corpus.jsonl; they are not read.
    """

    documents: tuple[str, ...]
    queries: tuple[str, ...] = ()
    judgements: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    why: str = ""
    texts: bool = False
    unread: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    def of(self, split: Split) -> tuple[str, ...]:
        """Return the files with judgements of ``split``."""
        return (*self.judgements.get(split, ()), *self.shared)

    @property
    def not_again(self) -> str:
        """What is not read because there is another of its name; "" where nothing is."""
        read = (*self.documents[:1], *self.queries[:1])
        return f"not read, beside {listed(read)}: {listed(self.again)}; remove what is stale" if self.again else ""

    @property
    def not_evaluated(self) -> str:
        """Why nothing of it will be evaluated, as far as names tell; "" where it will be, or holds documents alone."""
        if self.of("test"):
            return ""
        if self.beside:
            return f"{listed(self.beside)}: {self.why}"
        if self.of("train"):
            return f"it has judgements of the training split alone ({listed(self.of('train'))})"
        return f"it has queries ({listed(self.queries)}) but no judgements" if self.queries else ""


def form(name: str) -> Form:
    """Return the format in which the file ``name`` is read as a table; "" if its suffix does not tell."""
    name = name.lower()
    found = _FORMS.get(_suffix(unpacked(name)), "")
    return "" if unpacked(name) != name and found == "parquet" else found


def text_form(name: str) -> TextForm:
    """Return the format in which the file ``name`` is read as a document; "" if its suffix does not tell."""
    name = name.lower()
    return _TEXTS.get(_suffix(unpacked(name)), "") or _OFFICE.get(_suffix(name), "")


def unpacked(name: str) -> str:
    """Return the name without the suffix of a packing."""
    return name[: -len(_suffix(name))] if _suffix(name).lower() in PACKED else name


def is_table(name: str) -> bool:
    """Return whether the file ``name`` may be a table of documents."""
    found = form(name)
    return bool(found) and (found != "columns" or _suffix(unpacked(name.lower())) == ".tsv")


def listed(names: Iterable[str]) -> str:
    """Return a few of ``names`` in one readable line."""
    every = [printable(name) for name in names]
    return ", ".join(name[:60] for name in every[:_LISTED]) + (", ..." if len(every) > _LISTED else "")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix


def printable(name: str) -> str:
    """Return ``name`` in one readable line, whatever bytes it has."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def local_files(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Return (name -> size of the regular files, name -> what it is of the others) in and below ``folder``.

    Hidden names are left out, and so are the files that say who has a document open (~$). Raises :class:`OSError` where a
    folder or a file cannot be looked at.
    """
    files: dict[str, int] = {}
    others: dict[str, str] = {}

    def walk(below: str, depth: int, above: frozenset[tuple[int, int]]) -> None:
        with os.scandir(folder / below) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                name = f"{below}{entry.name}"
                if hidden(entry.name):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    others[name] = "a link to nothing"
                    continue
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise  # a disk or a mount that is in trouble
                    others[name] = "a link that leads back to itself"
                    continue
                if stat.S_ISREG(status.st_mode):
                    files[name] = status.st_size
                elif stat.S_ISDIR(status.st_mode):
                    if form(entry.name):
                        others[name] = "a folder"
                    this = status.st_dev, status.st_ino
                    if entry.is_symlink() and (this in above or depth >= LINKS):
                        others[name] = "a link to a folder that is read already, or a link too deep"
                    else:
                        walk(f"{name}/", depth + 1, above | {this})
                else:
                    others[name] = "no regular file"

    root = folder.stat()
    walk("", 0, frozenset({(root.st_dev, root.st_ino)}))
    return files, others


def hidden(name: str) -> bool:
    """Return whether a file is none of a collection's, or lies in a folder that is not."""
    return any(part.startswith((".", "~$")) for part in name.split("/"))


def holds_documents(names: Collection[str]) -> bool:
    """Return whether a folder with these files may be a collection."""
    names = [name for name in names if not hidden(name)]
    return bool(_table("corpus", names, "")) or any(map(is_documents, names))


def find(
    files: Mapping[str, int],
    shown: str,
    corpus: CorpusConfig,
    others: Mapping[str, str] | None = None,
    remedy: str = "",
) -> Layout:
    """Return the layout of a folder with ``files`` (name -> bytes), called ``shown``; ``others`` are names that are no files.

    Raises :class:`BadCollection` in one line for a folder without documents, for judgements that cannot be read or whose
    split nobody asks for, and for parts that are missing.
    """
    others = others or {}
    files = {name: size for name, size in files.items() if not hidden(name)}
    documents, queries = _table("corpus", files, shown), _table("queries", files, shown)
    loose = () if documents else _loose(files, queries, corpus)
    told = "" if documents else _no_documents(files, others, loose, corpus, remedy)
    if told:
        raise BadCollection(f"{shown}: {told}", code="collection-no-documents")
    for name, what in others.items():
        if _QRELS.search(name.lower()) or name.lower().startswith("queries."):
            raise BadCollection(
                f"{shown}/{printable(name)}: is {what}; put the file itself there, or remove it", code="collection-file"
            )
    judged = _judgements(files, corpus, named=bool(loose))
    layout = _split(judged, documents or loose, queries, shown, corpus)
    if loose:
        used = {*loose, *queries, *judged.labels}
        unread = tuple(name for name in files if name not in used)
        layout = replace(layout, texts=not is_table(loose[0]), unread=unread)
    again = (*_again("corpus", files, documents), *_again("queries", files, queries), *judged.again)
    layout = replace(layout, again=again)
    if (layout.of("train") or layout.of("test") or layout.beside) and not queries:
        raise BadCollection(
            f'{shown}: has qrels but no queries.jsonl; add it (one {{"_id", "text"}} a line)',
            code="collection-no-queries",
        )
    for split in ("test", "train"):
        names = layout.judgements.get(split, ())
        if names and not any(files[name] for name in names) and (split == "test" or not layout.of("test")):
            raise BadCollection(
                f"{shown}/{printable(names[0])}: is empty; fill it, or remove it to go on without it",
                code="collection-empty",
            )
    return layout


# --- documents and queries --------------------------------------------------------------------------------------------


def is_documents(name: str) -> bool:
    """Return whether the file ``name`` may be a collection by itself: a table, or one document."""
    return is_table(name) or bool(text_form(name))


def _table(role: str, names: Collection[str], shown: str) -> tuple[str, ...]:
    """Return the files with the rows of ``role`` (corpus or queries), the first of these that is there."""
    low = {name.lower(): name for name in sorted(names, reverse=True)}
    forms = (".jsonl", ".ndjson", *((".csv", ".tsv") if role == "corpus" else ()))
    for suffix in (".parquet", *(f"{form}{packing}" for form in forms for packing in ("", *PACKED))):
        if f"{role}{suffix}" in low:
            return (f"{role}{suffix}",) if f"{role}{suffix}" in names else (low[f"{role}{suffix}"],)
    part = re.compile(rf"(?:data/)?{role}[-_.]?\d+(?:-of-\d+)?\.[a-z.]+")
    inside = re.compile(rf"((?:[^/]+[-_.])?{role}(?:\.parquet)?)/(?:[^/]+/)*[^/]+")
    loose = [name for name in names if part.fullmatch(name.lower())]
    folders: dict[str, list[str]] = {}
    for name in names:
        if match := inside.fullmatch(name.lower()):
            folders.setdefault(match[1], []).append(name)
    for group in (loose, *folders.values()):
        kinds = ("parquet", "jsonl", *(("csv", "columns") if role == "corpus" else ()))
        readable = ([name for name in group if form(name) == kind and is_table(name)] for kind in kinds)
        group[:] = sorted(next(filter(None, readable), []))
    found = {name: group for name, group in folders.items() if group}
    if not loose and len(found) > 1:
        raise BadCollection(
            f"{shown}: holds several collections ({listed(sorted(found))}); give each its own folder",
            code="collection-several",
        )
    chosen = loose or next(iter(found.values()), [])
    _check_parts(chosen, shown)
    return tuple(chosen)


def _again(role: str, names: Collection[str], chosen: Collection[str]) -> tuple[str, ...]:
    """Return the tables of ``role`` beside the ``chosen`` ones, which are not read."""
    called = re.compile(rf"{role}|(?:data/)?{role}[-_.]?\d+(?:-of-\d+)?|{role}(?:\.parquet)?/.+")
    readable = ("jsonl", "parquet", *(("csv", "columns") if role == "corpus" else ()))
    return tuple(
        name
        for name in sorted(names if chosen else ())
        if name not in chosen and form(name) in readable and is_table(name)
        and called.fullmatch(unpacked(name.lower()).rpartition(".")[0])
    )  # fmt: skip


def _check_parts(names: Sequence[str], shown: str) -> None:
    """Refuse a table of which a part is missing (NAME-00001-of-00003)."""
    parts: dict[tuple[str, int], set[int]] = {}
    for name in names:
        stem = unpacked(name.lower()).rpartition(".")[0]
        if match := _SHARD.search(stem):
            parts.setdefault((stem[: match.start()], int(match[2])), set()).add(int(match[1]))
    for (stem, total), there in parts.items():
        first = 1 if total in there else 0
        if len(there) < total:
            lost = next((at for at in range(first, first + total) if at not in there), first)
            raise BadCollection(
                f"{shown}/{printable(stem)}: {len(there)} of {total} parts are there (number {lost} is missing); upload all",
                code="collection-part-missing",
            )


def _loose(files: Collection[str], queries: Collection[str], corpus: CorpusConfig) -> tuple[str, ...]:
    """Return the documents of a folder without a table called corpus: the tables that `fields` reads, else files of text."""
    judged = _judgements(files, corpus, named=True)
    free = [
        name
        for name in sorted(files)
        if name not in queries and name not in judged.labels and name not in judged.unknown
    ]
    tables = [name for name in free if is_table(name)] if corpus.fields else []
    return tuple(tables or (name for name in free if text_form(name)))


def _no_documents(
    files: Collection[str], others: Mapping[str, str], loose: Collection[str], corpus: CorpusConfig, remedy: str
) -> str:
    """Return why a folder without a table called corpus is no collection; "" if it is one with the documents ``loose``."""
    if loose and corpus.fields and is_table(next(iter(loose))):
        return ""
    nothing = f"holds neither corpus.jsonl (BEIR layout) nor corpus.parquet{remedy}"
    alike = re.compile(r"(?:.*[-_./])?(?:corpus|documents|docs|collection)(?:$|[-_./].*)")
    for name, what in others.items():
        if alike.fullmatch(name.lower()) and not (loose and what == "a folder"):
            return f"{nothing}; {printable(name)} is {what}"
    deeper = [
        name for name in sorted(files) if re.fullmatch(r"corpus\.jsonl(\.gz|\.zst)?", PurePosixPath(name.lower()).name)
    ]
    if deeper:
        return (
            f"{nothing}; {printable(deeper[0])} does: give the folder {printable(deeper[0].rpartition('/')[0])} in it"
        )
    # Beside files of text, what merely lies in a folder docs/ says nothing.
    close = [
        name
        for name in sorted(files)
        if alike.fullmatch(PurePosixPath(name.lower()).name if loose else name.lower())
        and not text_form(name)
        and name != SETTINGS
    ]
    if close:
        return f'{nothing}; {printable(close[0])} is not read: write corpus.jsonl, one {{"_id", "text"}} a line'
    table = next((name for name in sorted(files) if is_table(name)), "")
    if loose:
        return ""
    if table:
        return f"{nothing}; {printable(table)} is read if fields names its columns ({{id: ..., text: ...}})"
    return f"{nothing}, and no file of text (.md, .html, .txt, .pdf, .docx)"


# --- judgements -------------------------------------------------------------------------------------------------------


def _label(name: str, asked: Collection[str]) -> str | None:
    """Return the split that a file of judgements names, "" where it names none; None for a file that is none of judgements.

    Such are files in a folder `qrels` or `NAME-qrels`, files with `qrels` in their name, and files named by a split where
    the hub has them. ``asked``: the splits that the configuration names.
    """
    *folders, file = name.lower().split("/")
    stem = unpacked(file)
    suffix = _suffix(stem)
    if _FORMS.get(suffix) or suffix.lstrip(".") not in {*_SPLITS, *asked}:
        stem = stem.removesuffix(suffix)
    stem = _SHARD.sub("", stem)
    # The folders' own say, where the file is a mere part of one: test/0000.parquet, qrels-test/part-0.tsv.
    words = [stem, *(_QRELS.sub("", each) if each.startswith("qrel") else each for each in reversed(folders))]
    words = [_QRELS.sub("", words[0]).strip("-_."), *(each.strip("-_.") for each in words[1:])]
    said = [each for each in words if not _PLAIN.fullmatch(each) and not _IN_QRELS.search(each) and each != "default"]
    label = next(iter(said), "")
    if folders and _IN_QRELS.search(folders[0]):
        return label
    tokens = re.split(r"[-_.]", label)
    known = label in asked or tokens[0] in _SPLITS or tokens[-1] in _SPLITS
    if _IN_QRELS.search(stem) or (not folders and _QRELS.search(stem)):  # also test/qrels.tsv
        return label if known else ""
    hub = not folders or (folders[0] in ("data", "default") and len(folders) < 3)
    return label if hub and (label in asked or label in _SPLITS) else None


@dataclass(frozen=True)
class _Judged:
    """Files of judgements, name -> split: ``labels``, and ``unknown`` for those in a form that nobody reads. ``again``: named
    by a split alone, of which there is a file that is called so."""

    labels: dict[str, str]
    unknown: dict[str, str]
    again: tuple[str, ...] = ()


def _judgements(names: Collection[str], corpus: CorpusConfig, named: bool = False) -> _Judged:
    """Return the files of judgements; ``named``: those alone that are called so."""
    asked = {corpus.train_split.lower(), corpus.test_split.lower()}
    plain: dict[str, str] = {}
    hub: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for name in sorted(names):
        label = _label(name, asked)
        if label is None:
            continue
        folder, _, file = name.lower().rpartition("/")
        sure = bool(_IN_QRELS.search(folder.split("/")[0]) or _QRELS.search(file))
        suffix = _suffix(file).lstrip(".")
        if named and not sure:
            continue
        if form(name) or (sure and (not suffix or suffix in asked | _SPLITS)):
            (plain if sure else hub)[name] = label
        elif sure and (first := re.split(r"[-_.]", label)[0]) in {"", *asked, *_SPLITS} and suffix not in ("md", "rst"):
            unknown[name] = first
    labels = {**plain, **{name: label for name, label in hub.items() if label not in plain.values()}}
    return _Judged(labels, unknown, tuple(name for name in hub if name not in labels))


def _split(
    judged: _Judged, documents: tuple[str, ...], queries: tuple[str, ...], shown: str, corpus: CorpusConfig
) -> Layout:
    wanted: dict[Split, str] = {"train": corpus.train_split, "test": corpus.test_split}
    found: dict[Split, tuple[str, ...]] = {
        split: tuple(name for name, label in judged.labels.items() if label == asked.lower())
        for split, asked in wanted.items()
    }
    unnamed = tuple(name for name, label in judged.labels.items() if not label)
    shared: tuple[str, ...] = ()
    if unnamed and not any(found.values()) and all(form(name) == "parquet" for name in unnamed):
        shared = unnamed
    elif unnamed and not found["test"]:
        found["test"] = unnamed
    for names in (*found.values(), shared):
        _check_parts(names, shown)
    there = listed(sorted({label for label in judged.labels.values() if label}))
    known = any(found.values()) or bool(shared)
    for name, label in judged.unknown.items():
        split: Split = "train" if label == corpus.train_split.lower() else "test"
        if not (found[split] or shared):
            raise BadCollection(
                f"{shown}/{printable(name)}: judgements in a form that is not read; write qrels/{wanted[split]}.tsv "
                "(query-id, corpus-id, score), or take the file away to go on without it",
                code="judgements-form",
            )
    if there and not known:
        raise BadCollection(
            f"{shown}/qrels: holds {there} but neither {corpus.train_split}.tsv nor {corpus.test_split}.tsv; "
            "set train_split or test_split",
            code="collection-split",
        )
    for split, asked in wanted.items():
        if there and not found[split] and not shared and asked != split:
            raise BadCollection(
                f"{shown}: {split}_split is {asked!r}, of which there are no judgements (there are: {there}); correct it",
                code="collection-split",
            )
    used = {*found["train"], *found["test"], *shared}
    beside = tuple(name for name in judged.labels if name not in used)
    why = f"nobody asks for these judgements (set test_split; there are: {there})" if beside else ""
    return Layout(documents, queries, found, shared, beside, why)
