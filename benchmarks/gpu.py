"""On a GPU: labelling against the measured rate of a bf16 matrix product, training against a plain padded trainer.

    PYTHONPATH=src:. python benchmarks/gpu.py            # needs torch, transformers, accelerate, numpy, pyarrow, safetensors
    PYTHONPATH=src:. python benchmarks/gpu.py --tiny     # does it work? A model of nothing, on whatever is here

T5s with random weights in the shapes of t5-small, t5-base, t5-large and t5-3b; prompts of 200 tokens in the mean (100 to 300).
The share counts what the encoder's products and attention need for the tokens that are there, no padding: 2 x weights x
tokens and 4 x layers x inner width x length² a prompt. The plain trainer is what the official one does: every prompt padded
to 512, `transformers`' own forward pass under autocast, fused AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import DistillConfig, ScoringConfig
from inranker_flow.rankers.checkpoints import label_token_ids, load_seq2seq, load_tokenizer
from inranker_flow.rankers.loading import load_ranker

#: T5Config fields of the published checkpoints (google-t5/*).
SHAPES = {
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "t5-3b": {"d_model": 1024, "d_kv": 128, "d_ff": 16384, "num_layers": 24, "num_heads": 32},
}
TRAINED = ("t5-small", "t5-base")
TINY = {"tiny": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}}
ROUNDS = 3


def checkpoint(folder: Path, shape: dict[str, int]) -> str:
    """A T5 of ``shape`` with random weights and the demo's tokenizer, the vocabulary padded to T5's size."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = load_tokenizer("demo:student")
    config = T5Config(
        vocab_size=32_128 if shape["d_model"] >= 512 else len(tokenizer), decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=1, num_decoder_layers=shape["num_layers"], **shape,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = T5ForConditionalGeneration(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def prompts(count: int, shortest: int, longest: int) -> list[tuple[str, str]]:
    """Pairs whose prompts have about ``shortest`` to ``longest`` tokens: the demo's words are a token each."""
    from inranker_flow.demo.world import words

    random, known = np.random.default_rng(0), words()
    return [
        (" ".join(random.choice(known, 6)), " ".join(random.choice(known, random.integers(shortest, longest) - 16)))
        for _ in range(count)
    ]


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object]) -> float:
    """Of :data:`ROUNDS` rounds after one that warms up."""
    found = []
    for _ in range(ROUNDS + 1):
        wait()
        start = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def matrix_rate(size: int) -> float:
    """FLOP/s of a bf16 product of ``size`` x ``size`` matrices here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = 20 if torch.cuda.is_available() else 2
    return 2 * size**3 * times / median_seconds(lambda: [a @ b for _ in range(times)])


def needed(shape: dict[str, int], lengths: np.ndarray) -> float:
    """Operations of the encoder for prompts of ``lengths`` tokens (the decoder's one step is next to nothing)."""
    inner = shape["num_heads"] * shape["d_kv"]
    weights = shape["num_layers"] * (4 * shape["d_model"] * inner + 2 * shape["d_model"] * shape["d_ff"])
    attention = 4 * shape["num_layers"] * inner * float((lengths.astype(np.float64) ** 2).sum())
    return 2.0 * weights * float(lengths.sum()) + attention


def label(reference: str, shape: dict[str, int], pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """(pairs, operations that count) in a second of scoring in bf16."""
    ranker = load_ranker(reference, ScoringConfig(dtype="bfloat16"))
    queries, documents = zip(*pairs, strict=True)
    index = np.repeat(np.arange(len(pairs))[:, None], 2, axis=1)
    job = ranker.prepare(queries, documents, index)
    rows = np.arange(len(pairs))
    seconds = median_seconds(lambda: job.score(rows))
    return len(pairs) / seconds, needed(shape, job.lengths) / seconds


def ours(reference: str, labels: Path, batch: int) -> Callable[[], object]:
    """A step of this project's trainer."""
    from inranker_flow.distillation.data import load_examples
    from inranker_flow.distillation.train import Trainer
    from inranker_flow.students.monot5 import MonoT5Student

    settings = {"dropout": 0.1, "holdout": 0.0, "epochs": 1000, "batch_size": batch, "batching": "grouped"}
    config = parse(DistillConfig, {**settings, "precision": "bfloat16"}, "config")
    student = MonoT5Student(reference, config)
    made = Trainer(config, load_examples([labels], student.reader, config.centre, config.seed), student)
    made.scorer.train()
    steps = iter(range(10**9))
    return lambda: made._step(next(steps), 1e-5)


def plain(reference: str, pairs: list[tuple[str, str]], batch: int) -> Callable[[], object]:
    """A step as the official trainer takes it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_seq2seq(reference, dropout=0.1)
    model.to(device, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    answers = torch.tensor(label_token_ids(tokenizer, "▁false", "▁true"), device=device)
    target = torch.randn(len(pairs), 2, device=device)
    texts = [f"Query: {query} Document: {document} Relevant:" for query, document in pairs]
    steps = iter(range(10**9))

    def step() -> None:
        rows = np.arange(batch) + batch * next(steps)
        chosen = [texts[row % len(texts)] for row in rows]
        found = tokenizer(chosen, padding="max_length", truncation=True, max_length=512, return_tensors="pt").to(device)
        with torch.autocast(device, torch.bfloat16):
            start = torch.zeros(batch, 1, dtype=torch.long, device=device)
            inputs = {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}
            logits = model(**inputs, decoder_input_ids=start).logits[:, 0, answers]
        (logits.float() - target[torch.as_tensor(rows % len(texts), device=device)]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps_per_second(step: Callable[[], object], times: int) -> float:
    """Of ``times`` steps in a row."""
    return times / median_seconds(lambda: [step() for _ in range(times)])


def training_set(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """A labels/ folder of ``pairs``, with labels drawn at random."""
    from inranker_flow.artifacts import tables
    from inranker_flow.artifacts.manifest import write_manifest

    logits = np.random.default_rng(1).normal(0, 4, (len(pairs), 2))
    queries, documents = [f"q{n}" for n in range(len(pairs))], [f"d{n}" for n in range(len(pairs))]
    tables: list[tuple[tables.Table, dict[str, Any]]] = [
        (tables.CORPUS, {"doc_id": documents, "title": [""] * len(pairs), "text": [text for _, text in pairs]}),
        (
            tables.QUERIES,
            {
                "query_id": queries, "text": [text for text, _ in pairs], "origin": ["synthetic"] * len(pairs),
                "source_doc_id": [None] * len(pairs),
            },
        ),
        (
            tables.LABELS,
            {
                "query_id": queries, "doc_id": documents, "false_logit": list(logits[:, 0]),
                "true_logit": list(logits[:, 1]),
            },
        ),
    ]  # fmt: skip
    for table, columns in tables:
        tables.write(table, folder / table.filename, columns)
    write_manifest(folder, dataset="benchmark", stage="teacher_label")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a model of nothing, a few prompts, on whatever is here")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        raise SystemExit("FAILED: no CUDA device here; --tiny shows on a CPU that it works")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = matrix_rate(256 if tiny else 8192)
    print(f"{name}, torch {torch.__version__}: bf16 products reach {peak / 1e12:.3g} TFLOP/s\n")
    print("| shape | labelling, pairs/s | share of that rate | training, pairs/s | padded to 512 | ratio |")
    print("|---|---|---|---|---|---|")
    batch = 8 if tiny else 32
    for shape_name, shape in (TINY if tiny else SHAPES).items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            reference = checkpoint(folder / "model", shape)
            count = 64 if tiny else int(np.clip(3e16 / needed(shape, np.full(1000, 200)) * 1000 / 50, 2_000, 40_000))
            pairs = prompts(count, 20 if tiny else 100, 60 if tiny else 300)
            rate, used = label(reference, shape, pairs)
            cells = [shape_name, f"{rate:,.0f}", f"{used / peak:.0%}"]
            if tiny or shape_name in TRAINED:
                labels = training_set(folder / "labels", pairs[:2_000])
                times = 2 if tiny else 20
                trainers = ours(reference, labels, batch), plain(reference, pairs[:2_000], batch)
                speeds = [batch * steps_per_second(step, times) for step in trainers]
                cells += [f"{speed:,.0f}" for speed in speeds] + [f"{speeds[0] / speeds[1]:.1f}"]
            else:
                cells += ["", "", ""]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
