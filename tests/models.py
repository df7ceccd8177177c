"""Small real checkpoints and artifacts, made on the spot and once in a session."""

from __future__ import annotations

import atexit
import dataclasses
import json
import shutil
import string
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import Manifest, read_manifest, write_manifest

#: Real collections and tokenizers, beside the checkout where they are at all.
DATA = Path(__file__).parents[1].parent / "shared" / "data"

WORDS = """
Query: Document: Relevant: false true the a of in for is what where how who long does it take to grow bread river moon
stone garden winter bridge apple copper doctor engine forest hammer island jacket kettle lemon market needle orange
pepper quarry rabbit saddle timber umbrella valley window yellow zebra water light summer north
"""


@cache
def folder() -> Path:
    """A folder that lives as long as the session."""
    path = Path(tempfile.mkdtemp(prefix="inranker-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def real_t5_tokenizer() -> Path:
    """Folder of the real T5 vocabulary; skips the test where it is absent."""
    path = DATA / "tokenizers" / "t5"
    if not path.is_dir():
        pytest.skip(f"{path} is absent: the real T5 vocabulary is not part of the project")
    return path


def real_passages(count: int) -> list[str]:
    """Texts of a real collection; none where it is absent."""
    path = DATA / "collections" / "vaswani" / "corpus.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


def real_texts(queries: int = 2_000, documents: int = 4_000) -> tuple[list[str], list[str]]:
    """Queries and passages from several real collections; none where they are absent."""
    names = ("trec-dl-2019-pool", "liveqa-med", "cacm", "vaswani", "dbpedia-entity-5k", "noveleval")
    texts: tuple[list[str], list[str]] = ([], [])
    for found, most, file in zip(texts, (queries, documents), ("queries.jsonl", "corpus.jsonl"), strict=True):
        for name in names:
            path = DATA / "collections" / name / file
            if path.is_file():
                with path.open(encoding="utf-8") as lines:
                    for line, _ in zip(lines, range(most // len(names)), strict=False):
                        row = json.loads(line)
                        found.append(f"{row['title']} {row['text']}" if row.get("title") else row["text"])
    return texts


@cache
def tokenizer_folder(labels: tuple[str, ...] = ("false", "true")) -> Path:
    """A real T5Tokenizer: whole words, and letters for everything else. ``labels``: which label words it knows."""
    from transformers import T5Tokenizer

    words = [word for word in WORDS.split() if word not in ("false", "true") or word in labels]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -20.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in words]
    vocabulary += [(each, -20.0) for each in string.printable if not each.isspace()]
    path = folder() / f"tokenizer-{'-'.join(labels)}"
    T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512).save_pretrained(path)
    return path


@cache
def t5(seed: int = 0, tokenizer: Path | None = None, untied: bool = False) -> str:
    """Folder of a random T5: v1.0 (tied, scaled output), or ``untied`` as v1.1, Flan and mT5 are."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    read = AutoTokenizer.from_pretrained(tokenizer or tokenizer_folder())
    config = T5Config(
        vocab_size=len(read),
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu" if untied else "relu",
        decoder_start_token_id=0,
    )
    path = folder() / f"t5-{seed}-{len(read)}-{untied}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        T5ForConditionalGeneration(config).save_pretrained(path)
        if untied:  # as such checkpoints lie on the hub: a matrix of its own, and the flag that says so
            weights = load_file(path / "model.safetensors")
            weights["lm_head.weight"] = torch.randn(config.vocab_size, config.d_model)
            save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
            settings = json.loads((path / "config.json").read_text())
            settings.pop("scale_decoder_outputs", None)
            (path / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}))
    read.save_pretrained(path)
    return str(path)


def stub_files(path: Path, config: dict) -> Path:
    """A folder with the files of a checkpoint, of which config.json alone says anything."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text("{}")
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return path


@cache
def causal(seed: int = 0, positions: int = 512) -> str:
    """Folder of a random Llama with a byte-level tokenizer, which therefore can write line ends."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={"<end>": 0, **{each: i + 1 for i, each in enumerate(letters)}}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=len(letters) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=0,
    )
    path = folder() / f"causal-{seed}-{positions}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<end>").save_pretrained(path)
    return str(path)


def collection(
    path: Path,
    documents: dict[str, str],
    queries: dict[str, tuple[str, str]] | None = None,
    labels: dict[tuple[str, str], tuple[float, float]] | None = None,
    dataset: str = "toy",
) -> Path:
    """A collection/ folder: doc_id -> text; query_id -> (origin, text); (query_id, doc_id) -> (false, true logit)."""
    queries = queries or {}
    path.mkdir(parents=True, exist_ok=True)
    _write(tables.CORPUS, path, [(doc_id, "", text) for doc_id, text in documents.items()])
    _write(tables.QUERIES, path, [(query_id, text, origin, None) for query_id, (origin, text) in queries.items()])
    _write(tables.QRELS, path, [])
    if labels is not None:
        _write(tables.LABELS, path, [(*key, *values) for key, values in labels.items()])
    write_manifest(path, dataset=dataset, stage="prepare_corpus")
    return path


def candidates(
    path: Path, queries: dict[str, str], pairs: list[tuple[str, str]], origin: str = "supervised", dataset: str = "toy"
) -> Path:
    """A candidates/ folder: query_id -> text, and (query_id, doc_id) pairs to label."""
    path.mkdir(parents=True, exist_ok=True)
    _write(tables.QUERIES, path, [(query_id, text, origin, None) for query_id, text in queries.items()])
    _write(tables.PAIRS, path, [(*pair, "negative") for pair in pairs])
    _write(tables.RUN, path, [])
    write_manifest(path, dataset=dataset, stage="retrieve")
    return path


def synthetic(path: Path, queries: Iterable[tuple[str, str, str]], dataset: str = "toy") -> Path:
    """A queries/ folder as `generate_queries` writes it: (query_id, text, source_doc_id)."""
    rows = [(query_id, text, "synthetic", source) for query_id, text, source in queries]
    _write(tables.QUERIES, path, rows)
    write_manifest(path, dataset=dataset, stage="generate_queries")
    return path


def _write(table: tables.Table, path: Path, rows: list[tuple]) -> None:
    columns = zip(*rows, strict=True) if rows else [()] * len(table.schema.names)
    tables.write(table, path / table.filename, dict(zip(table.schema.names, map(list, columns), strict=True)))


def told(folder: Path) -> Manifest:
    """What a manifest says, but for how fast it went."""
    manifest = read_manifest(folder)
    return dataclasses.replace(manifest, details={**manifest.details, "tokens_per_second": 0.0})


def read_queries(folder: Path) -> list[dict]:
    """The rows of a folder's queries."""
    return tables.read(tables.QUERIES, folder).to_pylist()
