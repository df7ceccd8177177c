"""Whether a collection (and its published labels) is where its address says, without reading it."""

from __future__ import annotations

from pathlib import Path

from inranker_flow import storage
from inranker_flow.config import CorpusConfig
from inranker_flow.errors import UserError
from inranker_flow.preflight import hub
from inranker_flow.preflight.stores import readable

_FORMS = "give a folder in BEIR layout, a .parquet file, s3://, ir_datasets:ID, inranker-beir:FILE or demo:source/SEED"


def check_collection(corpus: CorpusConfig) -> str:
    """Find the collection, and its labels where it names some."""
    found = [_check_uri(corpus.uri)]
    if corpus.labels:
        scheme, _, file = corpus.labels.partition(":")
        if scheme != "inranker-msmarco":
            raise UserError(f"labels: {corpus.labels}: not a published format; give inranker-msmarco:FILE.tsv")
        found.append(f"labels {_check_file(file)}")
    return ", ".join(found)


def _check_uri(uri: str) -> str:
    scheme, _, rest = uri.partition(":")
    if scheme == "demo":
        domain, _, seed = rest.partition("/")
        if domain not in ("source", "target") or not seed.isdigit():
            raise UserError(f"{uri}: the demo's collections are demo:source/SEED and demo:target/SEED")
        return f"{uri}: made on the spot"
    if scheme == "ir_datasets":
        return _check_known(uri, rest)
    if scheme == "inranker-beir":
        return _check_file(rest)
    if scheme == "s3":
        _check_layout(uri, readable(uri))
        return f"{uri}: readable"
    path = storage.local_path(uri)
    if not path.exists():
        raise UserError(
            f"{uri}: no such file or folder here; {_FORMS} (what runs on a cluster reads no folder of yours)"
        )
    if path.is_dir():
        _check_layout(uri, [each.name for each in path.iterdir()])
    elif path.suffix != ".parquet":
        raise UserError(f"{uri}: not a collection; {_FORMS}")
    return f"{uri}: there"


def _check_layout(uri: str, names: list[str]) -> None:
    if not {"corpus.jsonl", "corpus.jsonl.gz", "corpus.parquet"} & set(names) and not uri.endswith(".parquet"):
        raise UserError(f"{uri}: holds neither corpus.jsonl (BEIR layout) nor corpus.parquet; correct the address")


def _check_known(uri: str, name: str) -> str:
    """ir_datasets knows its ids without a download."""
    import ir_datasets

    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise UserError(f"{uri}: ir_datasets knows no such id; see https://ir-datasets.com") from error
    if not dataset.has_docs():
        raise UserError(f"{uri}: has no documents; give an id that has")
    return f"{uri}: known (downloaded on first use)"


def _check_file(uri: str) -> str:
    if uri.startswith("s3://"):
        readable(uri)
        return f"{uri}: readable"
    if uri.startswith("hf://"):
        owner, name, file = [*uri.removeprefix("hf://").split("/", 2), "", ""][:3]
        if not (owner and name and file):
            raise UserError(f"{uri}: addresses on the hub are hf://OWNER/DATASET/FILE")
        return hub.check_file(f"datasets/{owner}/{name}", "", file)
    if not Path(storage.local_path(uri)).is_file():
        raise UserError(f"{uri}: no such file here; give a file, s3:// or hf://OWNER/DATASET/FILE")
    return f"{uri}: there"
