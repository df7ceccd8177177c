"""Whether a collection (and its published labels) is where its address says, and whether its judgements will be used,
without reading it whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from inranker_flow.config.sections import CorpusConfig
from inranker_flow.config.values import LABELLED_TEXTS, LABELS, LABELS_FORMS
from inranker_flow.corpora.problems import Problems
from inranker_flow.corpora.run_files import address
from inranker_flow.corpora.sources import FORMS, Split, irdatasets, layout, parquet, sample
from inranker_flow.corpora.sources import beir as lines
from inranker_flow.errors import UserError
from inranker_flow.preflight import beside, hub
from inranker_flow.preflight.stores import readable
from inranker_flow.storage import hub as hub_files
from inranker_flow.storage import uris
from inranker_flow.storage.listing import FileInfo, check_names

#: A file of judgements up to this size is looked into: a larger one holds some.
_LOOK = 2**20


def check_source(corpus: CorpusConfig) -> str:
    """Find the collection that phase 1 trains on, as :func:`check_collection`; it must have training queries."""
    return check_collection(corpus, source=True)


def check_collection(corpus: CorpusConfig, source: bool = False) -> str:
    """Find the collection, and the labels, log and runs that it names, and say where nothing of it will be evaluated.

    Raises :class:`UserError` for judgements of which none would be used, for a ``source`` without a training split, and as
    :mod:`.beside` does.
    """
    found = [_check_uri(corpus, source)]
    if corpus.labels:
        scheme, _, file = corpus.labels.partition(":")
        if scheme not in LABELS:
            raise UserError(f"labels: {corpus.labels}: not a published format; give {LABELS_FORMS}", code="labels-form")
        found.append(f"labels {_check_file(file)}")
        beside.check_labels(corpus, file)
    if corpus.log:
        found.append(f"log {_check_file(corpus.log)}")
        beside.check_log(corpus)
    for uri in (address(corpus, name) for name in corpus.runs):
        found.append(f"run {_check_file(uri)}")
        beside.check_run(corpus, uri)
    return ", ".join(found)


def _check_uri(corpus: CorpusConfig, source: bool) -> str:
    uri = corpus.uri
    scheme, _, rest = uri.partition(":")
    if scheme == "demo":
        domain, _, seed = rest.partition("/")
        if domain not in ("source", "target") or not seed.isdigit():
            raise UserError(
                f"{uri}: the demo's collections are demo:source/SEED and demo:target/SEED", code="demo-unknown"
            )
        return f"{uri}: made on the spot"
    if scheme == "ir_datasets":
        return _check_known(corpus, rest, source)
    if scheme in LABELLED_TEXTS:
        return _check_file(rest)
    if scheme == "hf":
        name, revision, _ = hub_files.parts(uri)
        return hub.check_dataset(name, revision)
    if scheme == "s3":
        readable(uri)
        root = uri.rstrip("/")
        files = {each.uri: each.size for each in uris.list_files(uri)}
        if uri in files:
            _check_single(corpus, FileInfo(uri, files[uri], ""))
            return f"{uri}: readable"
        names = {name.removeprefix(f"{root}/"): size for name, size in files.items()}
        check_names(names, uri)
        return f"{uri}: readable{_check_layout(corpus, names, {}, source)}"
    path = uris.local_path(uri)
    if not path.exists():
        raise UserError(
            f"{uri}: no such file or folder here; {FORMS} (what runs on a cluster reads no folder of yours)",
            code="not-found",
        )
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{uri}: not a collection; {FORMS}", code="collection-form")
        _check_single(corpus, FileInfo(str(path), path.stat().st_size, ""))
        return f"{uri}: there"
    try:
        sizes, others = layout.local_files(path)
    except OSError as error:
        raise UserError(
            f"{uri}: cannot be listed: {error.strerror}; check the disk and its rights", code="disk-unreadable"
        ) from error
    return f"{uri}: there{_check_layout(corpus, sizes, others, source)}"


def _check_single(corpus: CorpusConfig, file: FileInfo) -> None:
    folder, _, name = file.uri.rpartition("/")
    if not layout.is_documents(name):
        raise UserError(f"{corpus.uri}: not a collection; {FORMS}", code="collection-form")
    sample.check(corpus, folder, {name: file}, layout.Layout((name,), texts=not layout.is_table(name)))


def _check_layout(corpus: CorpusConfig, sizes: Mapping[str, int], others: Mapping[str, str], source: bool) -> str:
    """Return the remarks about a folder that is there."""
    root = corpus.uri.rstrip("/")
    found = layout.find(sizes, root, corpus, others, remedy="; correct the address")
    place = root if root.startswith("s3://") else uris.local_path(root)
    sample.check(corpus, root, {name: FileInfo(f"{place}/{name}", size, "") for name, size in sizes.items()}, found)
    for split in get_args(Split):
        names = found.judgements.get(split, ())
        empty = names and all(sizes[name] <= _LOOK and not _holds_rows(f"{root}/{name}", name) for name in names)
        if empty and (split == "test" or source or not found.of("test")):
            raise UserError(
                f"{root}/{layout.printable(names[0])}: holds no judgement that can be read; fill it, or take it away to go "
                f"on without a {split} split",
                code="judgements-form",
            )
    if source and not (found.of("train") or corpus.labels):
        there = layout.listed((*found.of("test"), *found.beside)) or "no judgements at all"
        raise UserError(
            f"{root}: as source it needs judgements of a training split named {corpus.train_split!r}, and there are: {there}; "
            "set train_split, or give a collection with training queries",
            code="collection-split",
        )
    told = f"; {found.not_again}" if found.again else ""
    reason = found.not_evaluated
    return f"{told}; will NOT be evaluated: {reason}" if reason and not source else told


def _holds_rows(uri: str, name: str) -> bool:
    """Return whether a small file of judgements holds one that can be read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"judgements{''.join(Path(name).suffixes[-2:])}".lower()
        uris.download(uri, path)
        problems = Problems("repair")
        if layout.form(name) == "parquet":
            return parquet.count(path, uri) > 0
        return any(rows.lines for rows in lines.judgements(path, uri, layout.form(name), problems))


def _check_known(corpus: CorpusConfig, name: str, source: bool) -> str:
    """Return ir_datasets knows its ids, and what they hold, without a download."""
    dataset = irdatasets.look_up(name)
    irdatasets.check_fields(name, dataset, corpus)
    split = irdatasets.split_of(name, corpus)
    if source and not corpus.labels and not (split == "train" and dataset.has_qrels() and dataset.has_queries()):
        other = irdatasets.judged_ids(name, "train", corpus)
        hint = f"give one of {', '.join(other[:6])}" if other else "give an id that has"
        raise UserError(
            f"{corpus.uri}: as source it needs judgements of a training split, which this id does not name; {hint}, or set "
            "train_split to the part of the id that names it",
            code="collection-split",
        )
    if dataset.has_qrels() and not dataset.has_queries():
        raise UserError(
            f"{corpus.uri}: has judgements but no queries; give an id that has both", code="dataset-unusable"
        )
    told = f"{corpus.uri}: known, the {split} split (downloaded on first use)"
    if permission := irdatasets.needs_permission(dataset):
        told += f"; its documents must be there already: {permission}, see https://ir-datasets.com"
    reason = irdatasets.unjudged(name, dataset, split)
    return f"{told}; will NOT be evaluated: {reason}" if reason and not source else told


def _check_file(uri: str) -> str:
    if uri.startswith("s3://"):
        readable(uri)
        return f"{uri}: readable"
    if uri.startswith("hf://"):
        owner, name, file = [*uri.removeprefix("hf://").split("/", 2), "", ""][:3]
        if not (owner and name and file):
            raise UserError(f"{uri}: addresses on the hub are hf://OWNER/DATASET/FILE", code="address-form")
        return hub.check_file(f"datasets/{owner}/{name}", "", file)
    if not Path(uris.local_path(uri)).is_file():
        raise UserError(f"{uri}: no such file here; give a file, s3:// or hf://OWNER/DATASET/FILE", code="not-found")
    return f"{uri}: there"
