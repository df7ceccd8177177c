"""Training steps against InRanker's own trainer and sentence-transformers', the data path against `datasets` with a padding
collator.

    python3.11 -m venv /tmp/inranker && /tmp/inranker/bin/pip install inranker==1.1.0 "numpy<2"
    python3.11 -m venv /tmp/arrow && /tmp/arrow/bin/pip install datasets transformers torch accelerate sentence-transformers
    PYTHONPATH=src:. taskset -c 1 .venv/bin/python benchmarks/training.py steps --peer /tmp/inranker/bin/python
    PYTHONPATH=src:. taskset -c 1 .venv/bin/python benchmarks/training.py encoder --peer /tmp/arrow/bin/python
    PYTHONPATH=src:. taskset -c 1 .venv/bin/python benchmarks/training.py data --peer /tmp/arrow/bin/python

One core and one thread each, in turns; CPU time, so that a busy machine disturbs less; ratios are medians over rounds.
The model is a random T5 of t5-small's shape, or a BERT of MiniLM's (6 layers of 384). The texts are real paragraphs, joined
and cut to 20 to 250 words (median 64, mean about 77): prompts of about 110 tokens in the median. `--texts` is a corpus.jsonl,
`--tokenizer` a T5 tokenizer and `--wordpiece` a BERT's vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1].parent / "shared" / "data"
PAIRS_PER_QUERY = 10
#: Our settings: name -> changes to a DistillConfig.
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32, iid": {"precision": "float32", "batching": "iid"},
    "fp32, grouped": {"precision": "float32", "batching": "grouped"},
    "bf16 autocast, grouped": {"precision": "bfloat16", "batching": "grouped"},
    "bf16 weights, grouped": {"precision": "bfloat16-weights", "batching": "grouped"},
    "bf16 weights, grouped, dropout 0": {"precision": "bfloat16-weights", "batching": "grouped", "dropout": 0.0},
}


def texts(path: Path, count: int) -> tuple[list[str], list[str]]:
    """(queries, passages): ``count`` passages with lengths like those of a web collection, a tenth as many queries."""
    words: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            words += json.loads(line)["text"].split()
            if len(words) > 100 * count + 100_000:
                break
    random = np.random.default_rng(0)

    def cut(lengths: np.ndarray) -> list[str]:
        starts = random.integers(0, len(words) - lengths.max(), len(lengths))
        return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]

    passages = np.clip(random.lognormal(np.log(64), 0.61, count).astype(int), 20, 250)
    return cut(random.integers(4, 13, -(-count // PAIRS_PER_QUERY))), cut(passages)


def training_set(folder: Path, source: Path, count: int) -> Path:
    """A labels/ folder with ``count`` pairs."""
    from inranker_flow.artifacts import tables
    from inranker_flow.artifacts.manifest import write_manifest

    queries, passages = texts(source, count)
    logits = np.random.default_rng(1).normal(0, 4, (count, 2))
    ids = [f"d{number}" for number in range(count)]
    of = [f"q{number // PAIRS_PER_QUERY}" for number in range(count)]
    folder.mkdir(parents=True)
    tables.write(
        tables.CORPUS, folder / tables.CORPUS.filename, {"doc_id": ids, "title": [""] * count, "text": passages}
    )
    names = [f"q{number}" for number in range(len(queries))]
    columns: dict[str, list[Any]] = {"query_id": names, "text": queries, "origin": ["synthetic"] * len(names)}
    tables.write(tables.QUERIES, folder / tables.QUERIES.filename, {**columns, "source_doc_id": [None] * len(names)})
    pairs = {"query_id": of, "doc_id": ids, "false_logit": list(logits[:, 0]), "true_logit": list(logits[:, 1])}
    tables.write(tables.LABELS, folder / tables.LABELS.filename, pairs)
    write_manifest(folder, dataset="benchmark", stage="teacher_label")
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as lines:
        for number, (false, true) in enumerate(logits):
            row = {"query": queries[number // PAIRS_PER_QUERY], "contents": passages[number]}
            lines.write(json.dumps({**row, "true_logit": true, "false_logit": false}) + "\n")
    return folder


class Peer:
    """`training_peer.py` in the other environment, on the same core."""

    def __init__(self, python: str, command: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("training_peer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self.name = self._ask(f"{command} {folder}")["ready"]

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            raise SystemExit(f"FAILED: the peer ended with status {self._process.wait()}; its own lines above say why")
        answer: dict[str, Any] = json.loads(told)
        return answer

    def rate(self, steps: int) -> float:
        """Examples per CPU second of the next ``steps`` steps."""
        told = self._ask(str(steps))
        return float(told["examples"] / told["seconds"])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def rate(work: Callable[[], int]) -> float:
    """Examples per CPU second of ``work``, which returns its examples."""
    start = time.process_time()
    examples = work()
    return examples / (time.process_time() - start)


def checkpoint(folder: Path, tokenizer: Path) -> Path:
    """A random T5 of t5-small's shape with the real vocabulary, readable by old and new transformers."""
    from inranker_flow.rankers.checkpoints import load_seq2seq

    model, _ = load_seq2seq(f"init:small?tokenizer={tokenizer}")
    model.config.vocab_size = 32_128
    model.resize_token_embeddings(32_128)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if file.is_file() and file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def as_old(folder: Path) -> Path:
    """The checkpoint as a `pytorch_model.bin` too, which transformers of 2023 reads."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        weights.setdefault(name, weights["shared.weight"])
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def encoder_checkpoint(folder: Path, tokenizer: Path) -> Path:
    """A random cross-encoder of MiniLM's shape with BERT's vocabulary."""
    import transformers

    words = tokenizer.read_text(encoding="utf-8").split("\n")
    made = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=512)
    made.save_pretrained(folder)
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
    config = transformers.BertConfig(vocab_size=len(made), num_labels=1, **shape)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def trainer(folder: Path, labels: Path, changes: dict[str, Any], encoder: bool = False) -> Any:
    """Our trainer on ``labels`` with the paper's settings and ``changes``."""
    from inranker_flow.config.parsing import parse
    from inranker_flow.config.sections import DistillConfig
    from inranker_flow.distillation.data import load_examples
    from inranker_flow.distillation.train import Trainer
    from inranker_flow.students.encoder import EncoderStudent
    from inranker_flow.students.monot5 import MonoT5Student

    config = parse(DistillConfig, {"dropout": 0.1, "holdout": 0.0, "epochs": 1000, **changes}, "config")
    student = EncoderStudent(str(folder), config) if encoder else MonoT5Student(str(folder), config)
    made = Trainer(config, load_examples([labels], student.reader, config.centre, config.seed), student)
    made.scorer.train()
    return made


def every_length(made: Any, rounds: int) -> Iterator[list[int]]:
    """The steps of an epoch dealt out so that each round has batches of every length."""
    steps = range(made.sampler.steps_per_epoch)
    order = sorted(steps, key=lambda step: made.examples.lengths(made.sampler.pieces(step)[0][0]).max())
    for number in range(rounds):
        # One of every `rounds` neighbours, another each time: or the last round would have the longest of each.
        yield [step for place, step in enumerate(order) if (place + place // rounds) % rounds == number]


def steps(arguments: argparse.Namespace, folder: Path) -> None:
    labels = training_set(folder / "labels", arguments.texts, 32 * arguments.batches)
    encoder = arguments.what == "encoder"
    if encoder:
        model = encoder_checkpoint(folder / "model", arguments.wordpiece)
    else:
        model = as_old(checkpoint(folder / "model", arguments.tokenizer))
    chosen = {name: changes for name, changes in SETTINGS.items() if arguments.only in name}
    made = {name: trainer(model, labels, changes, encoder) for name, changes in chosen.items()}
    examples = next(iter(made.values())).examples
    lengths = examples.lengths(np.arange(len(examples.query)))
    print(
        f"{len(lengths)} pairs; tokens: mean {lengths.mean():.0f}, median {np.median(lengths):.0f}, most {lengths.max()}"
    )
    for each in made.values():
        each._step(0, 0.0)  # what is compiled or packed once
    (model / "pairs.jsonl").write_bytes((labels / "pairs.jsonl").read_bytes())
    peer = Peer(arguments.peer, "encoder" if encoder else "trainer", model)
    print(f"peer: {peer.name}", flush=True)
    peer.rate(1)
    plans = {name: list(every_length(each, arguments.rounds)) for name, each in made.items()}
    rates: dict[str, list[float]] = {name: [] for name in ("peer", *made)}
    for number in range(arguments.rounds):
        rates["peer"].append(peer.rate(1))
        for name, each in made.items():
            rates[name].append(
                rate(lambda each=each, plan=plans[name][number]: sum(each._step(s, 7e-5)[1] for s in plan))
            )
        print({name: round(values[-1], 2) for name, values in rates.items()}, flush=True)
    peer.close()
    report(rates)


def data(arguments: argparse.Namespace, folder: Path) -> None:
    import torch

    from inranker_flow.config.sections import DistillConfig
    from inranker_flow.distillation.batch_sampling import Sampler
    from inranker_flow.distillation.data import load_examples
    from inranker_flow.rankers.checkpoints import load_tokenizer
    from inranker_flow.rankers.monot5 import MonoT5Reader
    from inranker_flow.rankers.monot5_prompt import Renderer

    torch.set_num_threads(1)
    labels = training_set(folder / "labels", arguments.texts, 40_000)
    tokenizer = load_tokenizer(str(arguments.tokenizer))
    examples = load_examples([labels], MonoT5Reader(Renderer(tokenizer, 512)), True, 0)
    rows = np.arange(len(examples.query))
    with (labels / "prompts.jsonl").open("w", encoding="utf-8") as lines:
        for start in range(0, len(rows), 1000):
            batch = examples.batch(rows[start : start + 1000])
            for ids, mask, label in zip(*batch.inputs, batch.teacher, strict=True):
                length = int(mask.sum())
                row = {"input_ids": ids[:length].tolist(), "attention_mask": [1] * length, "labels": label.tolist()}
                lines.write(json.dumps(row) + "\n")
    for file in arguments.tokenizer.iterdir():
        if file.is_file():
            (labels / file.name).write_bytes(file.read_bytes())
    Peer(arguments.peer, "write", labels).close()
    peer = Peer(arguments.peer, "arrow", labels)
    print(f"peer: pre-tokenised Arrow and a padding collator ({peer.name}), random batches of 32")
    config = DistillConfig()
    ours = {
        "iid, whole batch": (Sampler(examples, rows, False, 32, 0), 0),
        "iid, parts of 2,048 tokens": (Sampler(examples, rows, False, 32, 0), 2_048),
        "grouped, whole batch": (Sampler(examples, rows, False, 32, 0, grouped=True), 0),
    }

    def run(sampler: Sampler, tokens: int, first: int, count: int) -> int:
        done = 0
        for step in range(first, first + count):
            for part, _ in sampler.pieces(step, tokens, pad_to=8):
                batch = examples.batch(part, pad_to=8)
                for array in (*batch.inputs, batch.teacher):
                    torch.from_numpy(array)
                done += len(part)
        return done

    rates: dict[str, list[float]] = {name: [] for name in ("peer", *ours)}
    peer.rate(50)
    for sampler, tokens in ours.values():
        run(sampler, tokens, 0, 50)
    for number in range(arguments.rounds):
        rates["peer"].append(peer.rate(100))
        for name, (sampler, tokens) in ours.items():
            rates[name].append(rate(lambda s=sampler, t=tokens, n=number: run(s, t, 50 + 600 * n, 600)))
    peer.close()
    assert config.batch_size == 32
    report(rates)


def report(rates: dict[str, list[float]]) -> None:
    """One line for each side: median rate, median of the rounds' ratios, their range."""
    print(f"{'':36}{'examples/CPU s':>16}{'ratio':>8}   range")
    for name, values in rates.items():
        ratios = np.array(values) / np.array(rates["peer"])
        print(f"{name:36}{np.median(values):16,.2f}{np.median(ratios):8.2f}   {ratios.min():.2f} to {ratios.max():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "encoder", "data"])
    parser.add_argument("--peer", required=True, help="Python of the other environment")
    parser.add_argument("--texts", type=Path, default=DATA / "train" / "squad-v1.1-train" / "corpus.jsonl")
    parser.add_argument("--tokenizer", type=Path, default=DATA / "tokenizers" / "t5")
    parser.add_argument("--wordpiece", type=Path, default=DATA / "tokenizers" / "bert-base-uncased" / "vocab.txt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="of 32 pairs, in the training set of `steps`")
    parser.add_argument("--only", default="", help="settings with this in their name")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INRANKER_SCRATCH"] = f"{folder}/scratch"
        (data if arguments.what == "data" else steps)(arguments, Path(folder))


if __name__ == "__main__":
    main()
