"""Labelling speed of one CPU core against the original code and CTranslate2, in one interleaved run.

    PYTHONPATH=src:. taskset -c 1 .venv/bin/python benchmarks/labelling.py \\
        --inranker /tmp/inranker/bin/python --ctranslate2 /tmp/ctranslate2/bin/python [--queries 20] [--rounds 3]
    PYTHONPATH=src:. .venv/bin/python benchmarks/labelling.py --memory 1000000
    PYTHONPATH=src:. .venv/bin/python benchmarks/labelling.py --processes 2 [--queries 60] [--rounds 5]

A t5-small shape with random weights; for each query 10 passages, prompts of about 128 tokens. Every variant is a process of
its own with one thread, which is given the texts and returns the two logits of each pair; the variants take turns, and the
figures are CPU seconds (the machine may be shared). The ratio is the median over the rounds.

The peers have environments of their own:

    python3.11 -m venv /tmp/inranker
    /tmp/inranker/bin/pip install inranker sentencepiece protobuf==3.20.1
    /tmp/inranker/bin/pip install "numpy<2" "pyarrow<15" "pandas<2.2"     # what torch 2.1.1 was built for
    python3.11 -m venv /tmp/ctranslate2
    /tmp/ctranslate2/bin/pip install ctranslate2 torch "transformers>=5.20,<6" sentencepiece

``inranker`` is unicamp-dl's T5Ranker as it is published (torch 2.1.1, transformers 4.27.4): batch after batch the passages of
one query, padded to the longest. ``ctranslate2`` is given token lists and sorts them into batches of 1024 tokens.
Needs the T5 vocabulary and the real texts in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).parents[1].parent / "shared" / "data"
DOCUMENTS_PER_QUERY = 10
CT2_BATCH_TOKENS = 1024
SHAPE = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}


# --- workers: one process for each variant, in its own environment ----------------------------------------------------


def serve(variant: str, checkpoint: str) -> None:
    """Answer each line of JSON (a list of [query, [passages]]) with {seconds, logits} or, for ``ids``, {ids}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    score, ids = {
        "inranker": inranker,
        "ctranslate2": ctranslate2,
    }.get(variant, ours)(variant, checkpoint)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["what"] == "ids":
            print(json.dumps(ids(request["groups"])), file=answers, flush=True)
            continue
        start = time.process_time()
        logits = score(request["groups"])
        seconds = time.process_time() - start
        print(json.dumps({"seconds": seconds, "logits": logits}), file=answers, flush=True)


def prompts(groups):
    return [f"Query: {query} Document: {passage} Relevant:" for query, passages in groups for passage in passages]


def inranker(_, checkpoint):
    import torch
    from inranker import T5Ranker

    torch.set_num_threads(1)
    # tokenizer.json of today is not read by the tokenizers library of then: it converts the sentencepiece model.
    old = Path(checkpoint) / "inranker"
    old.mkdir(exist_ok=True)
    for name in ("config.json", "pytorch_model.bin", "spiece.model"):
        if not (old / name).exists():
            (old / name).symlink_to(Path(checkpoint) / name)
    ranker = T5Ranker(str(old), batch_size=DOCUMENTS_PER_QUERY, silent=True, device="cpu")

    def score(groups):
        return [
            pair for query, passages in groups for pair in ranker.get_scores(query, passages, return_logits=True)[1]
        ]

    return score, lambda groups: ranker.tokenizer(prompts(groups))["input_ids"]


def ctranslate2(_, checkpoint):
    import ctranslate2 as ct2
    import numpy as np
    from transformers import AutoTokenizer

    folder = Path(checkpoint) / "ctranslate2"
    if not folder.exists():
        ct2.converters.TransformersConverter(checkpoint).convert(str(folder), quantization="float32")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = ct2.Translator(str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=1)
    labels = tokenizer.convert_tokens_to_ids(["▁false", "▁true"])

    def score(groups):
        ids = tokenizer(prompts(groups), return_attention_mask=False)["input_ids"]
        results = model.translate_batch(
            [tokenizer.convert_ids_to_tokens(each) for each in ids],
            max_batch_size=CT2_BATCH_TOKENS,
            batch_type="tokens",
            beam_size=1,
            max_decoding_length=1,
            return_logits_vocab=True,
        )
        return [np.array(each.logits[0][0]).reshape(-1)[labels].tolist() for each in results]

    return score, lambda groups: tokenizer(prompts(groups))["input_ids"]


def ours(variant, checkpoint):
    import torch

    from inranker_flow.config.sections import ScoringConfig
    from inranker_flow.rankers.loading import load_ranker

    torch.set_num_threads(1)
    name, _, dtype = variant.partition(" ")
    forward = "reference" if name == "transformers" else "fast"
    ranker = load_ranker(checkpoint, ScoringConfig(dtype=dtype, forward=forward))

    def score(groups):
        return ranker.score([(query, passage) for query, passages in groups for passage in passages]).tolist()

    return score, lambda groups: ranker.tokenizer(prompts(groups))["input_ids"]


class Worker:
    def __init__(self, python: str, variant: str, checkpoint: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment["PYTHONWARNINGS"] = "ignore"
        if variant in ("inranker", "ctranslate2"):
            environment.pop("PYTHONPATH", None)
        command = [python, __file__, "--worker", variant, "--checkpoint", str(checkpoint)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{variant}: did not start; see above")

    def ask(self, what: str, groups):
        print(json.dumps({"what": what, "groups": groups}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{' '.join(self.process.args[-3:])}: died; see above")
        return json.loads(answer)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# --- the benchmark ----------------------------------------------------------------------------------------------------


def make_checkpoint(folder: Path) -> None:
    """t5-small's shape with random weights, in files that old and new releases of transformers read."""
    import shutil

    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, decoder_start_token_id=0, **SHAPE)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    torch.save(T5ForConditionalGeneration(config).state_dict(), folder / "pytorch_model.bin")
    for file in (DATA / "tokenizers" / "t5").iterdir():
        shutil.copyfile(file, folder / file.name)


def texts(count: int) -> list[tuple[str, list[str]]]:
    """Questions with passages of very different lengths, as a first stage finds them."""
    pool = DATA / "collections" / "trec-dl-2019-pool"
    if not pool.is_dir():
        sys.exit(f"{pool} is absent: this benchmark needs real texts")
    rng = random.Random(0)

    def read(name):
        with (pool / name).open(encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]

    queries, passages = read("queries.jsonl"), read("corpus.jsonl")
    rng.shuffle(passages)
    unused = iter(passages)

    def passage() -> str:
        parts = [next(unused)]
        while rng.random() < 0.25:
            parts.append(next(unused))
        return " ".join(parts)

    return [(rng.choice(queries), [passage() for _ in range(DOCUMENTS_PER_QUERY)]) for _ in range(count)]


def gemm_peak(dtype_name: str) -> float:
    """GFLOP/s of one core on this model's largest product, by the best of PyTorch's ways to it."""
    import torch

    from inranker_flow.rankers import kernels

    torch.set_num_threads(1)
    dtype = getattr(torch, dtype_name)
    x, weight = torch.randn(2048, SHAPE["d_model"]).to(dtype), torch.randn(SHAPE["d_ff"], SHAPE["d_model"]).to(dtype)
    best = float("inf")
    with torch.inference_mode():
        for matrix in (kernels.packed(weight), kernels.Weight(weight)):
            for _ in range(20):
                start = time.process_time()
                matrix(x)
                best = min(best, time.process_time() - start)
    return 2 * x.numel() * SHAPE["d_ff"] / best / 1e9


def gflops(lengths: list[int]) -> float:
    """Multiplications and additions that the scores need at least: no padding, no keys or values in the decoder."""
    d, ff, layers = SHAPE["d_model"], SHAPE["d_ff"], SHAPE["num_layers"]
    inner = SHAPE["d_kv"] * SHAPE["num_heads"]
    heads = SHAPE["num_heads"]
    encoder = sum(n * 2 * (4 * d * inner + 2 * d * ff) + 4 * n * n * inner for n in lengths)
    decoder = sum(2 * (6 * d * inner + 2 * d * ff) + 4 * n * heads * d for n in lengths)
    return layers * (encoder + decoder) / 1e9


def margin_agreement(ours, theirs) -> tuple[float, float]:
    """Largest difference of a logit, and Spearman's correlation of the margins."""
    import numpy as np
    from scipy.stats import spearmanr

    a, b = np.array(ours), np.array(theirs)
    return float(np.abs(a - b).max()), float(spearmanr(a[:, 1] - a[:, 0], b[:, 1] - b[:, 0]).statistic)


def compare(options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder)
        make_checkpoint(checkpoint)
        pythons = dict.fromkeys(("ours float32", "ours bfloat16", "ours int8"), sys.executable)
        pythons["transformers float32"] = pythons["transformers bfloat16"] = sys.executable
        for name in ("inranker", "ctranslate2"):
            if getattr(options, name):
                pythons[name] = getattr(options, name)
        base = "inranker" if options.inranker else "transformers float32"
        workers = {name: Worker(python, name, checkpoint) for name, python in pythons.items()}
        groups = texts(options.queries)
        ids = workers["ours float32"].ask("ids", groups)
        if options.inranker:  # its tokenizer is converted from another file, with other ties
            theirs = workers["inranker"].ask("ids", groups)
            same = [a == b for a, b in zip(ids, theirs, strict=True)]
            kept = [all(same[i * DOCUMENTS_PER_QUERY : (i + 1) * DOCUMENTS_PER_QUERY]) for i in range(len(groups))]
            print(f"{kept.count(False)} of {len(groups)} queries left out: the old tokenizer gives other ids")
            groups = [group for group, keep in zip(groups, kept, strict=True) if keep]
            ids = workers["ours float32"].ask("ids", groups)
        lengths = [min(len(each), 512) for each in ids]
        work = gflops(lengths)
        print(
            f"{len(lengths)} pairs, {statistics.mean(lengths):.0f} tokens (median {statistics.median(lengths):.0f}, "
            f"longest {max(lengths)}), {work / len(lengths):.2f} GFLOP a pair"
        )
        seconds = {name: [] for name in workers}
        logits = {}
        for worker in workers.values():
            worker.ask("score", groups[:2])
        peaks = {"float32": gemm_peak("float32"), "bfloat16": gemm_peak("bfloat16")}
        for _ in range(options.rounds):
            for name, worker in workers.items():
                answer = worker.ask("score", groups)
                seconds[name].append(answer["seconds"])
                logits[name] = answer["logits"]
            for dtype in peaks:
                peaks[dtype] = max(peaks[dtype], gemm_peak(dtype))
        for worker in workers.values():
            worker.end()
    print("measured peak of a matrix product, GFLOP/s:", {name: round(value) for name, value in peaks.items()})
    print(f"\n| variant | pairs / CPU second | x {base} | GFLOP/s (share of peak) | largest difference, Spearman |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(times, seconds[base], strict=True))
        rate = work / statistics.median(times)
        difference, spearman = margin_agreement(logits[name], logits[base])
        # Of the peak of 8-bit products nothing is measured.
        peak = float("nan") if "int8" in name else peaks["bfloat16" if "bfloat16" in name else "float32"]
        print(
            f"| {name} | {len(lengths) / statistics.median(times):.1f} | {ratio:.2f} | {rate:.0f} ({rate / peak:.0%}) "
            f"| {difference:.1e}, {spearman:.4f} |"
        )
    if options.ctranslate2:
        pairs = zip(seconds["ours float32"], seconds["ctranslate2"], strict=True)
        ratios = sorted(b / a for a, b in pairs)
        print(f"\nours float32 / ctranslate2: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def memory(pairs: int) -> None:
    """The stage teacher_label on ``pairs`` pairs of as many passages, beside the model: its forward returns zeros."""
    import numpy as np
    import torch

    from inranker_flow.artifacts import tables
    from inranker_flow.artifacts.manifest import write_manifest
    from inranker_flow.config.sections import ScoringConfig, TeacherConfig
    from inranker_flow.rankers.loading import load_ranker
    from inranker_flow.rankers.monot5 import MonoT5Ranker
    from inranker_flow.stages.teacher_label import teacher_label

    def resident(field: str) -> float:
        (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field))
        return int(line.split()[1]) / 2**20

    words = [word for _, passages in texts(40) for passage in passages for word in passage.split()]
    rng = np.random.default_rng(0)
    reference = f"init:small?tokenizer={DATA / 'tokenizers' / 't5'}"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INRANKER_SCRATCH"] = f"{folder}/scratch"
        collection, candidates = Path(folder, "collection"), Path(folder, "candidates")
        queries = [f"q{i:07}" for i in range(pairs // DOCUMENTS_PER_QUERY)]
        with tables.TableWriter(_folder(collection) / tables.CORPUS.filename, tables.CORPUS) as writer:
            for start in range(0, pairs, 10_000):
                places = rng.integers(len(words) - 200, size=10_000)
                sizes = rng.integers(20, 140, size=10_000)
                writer.write(
                    {
                        "doc_id": [f"d{start + i:07}" for i in range(10_000)],
                        "title": [""] * 10_000,
                        "text": [" ".join(words[p : p + n]) for p, n in zip(places, sizes, strict=True)],
                    }
                )
        tables.write(tables.QUERIES, collection / tables.QUERIES.filename, tables.QUERIES.schema.empty_table())
        write_manifest(collection, dataset="memory", stage="prepare_corpus")
        table = {"query_id": queries, "text": [f"what is {each}" for each in queries]}
        table |= {"origin": ["supervised"] * len(queries), "source_doc_id": [None] * len(queries)}
        tables.write(tables.QUERIES, _folder(candidates) / tables.QUERIES.filename, table)
        with tables.TableWriter(candidates / tables.PAIRS.filename, tables.PAIRS) as writer:
            for start in range(0, pairs, 10_000):
                rows = range(start, start + 10_000)
                writer.write(
                    {
                        "query_id": [queries[i // DOCUMENTS_PER_QUERY] for i in rows],
                        "doc_id": [f"d{i:07}" for i in rows],
                        "role": ["negative"] * len(rows),
                    }
                )
        write_manifest(candidates, dataset="memory", stage="retrieve")
        child = os.fork()
        if not child:  # a process that holds nothing of what was made above
            ranker = load_ranker(reference, ScoringConfig())
            ranker.score([("a query", "a passage " * 60)] * 16)
            alone = resident("VmRSS")
            del ranker
            MonoT5Ranker.forward = lambda self, ids, mask: torch.zeros(len(ids), 2)
            start = time.monotonic()
            Path("/proc/self/clear_refs").write_text("5")  # the peak from here on, loading the model again included
            stats = teacher_label(TeacherConfig(reference), collection, candidates, Path(folder, "labels"))
            print(
                f"{stats.pairs:,} pairs, {stats.documents:,} passages, {stats.tokens / stats.pairs:.0f} tokens a pair: "
                f"{resident('VmHWM') - alone:.2f} GiB beside the process with its model alone ({alone:.2f} GiB), "
                f"{time.monotonic() - start:.0f} s without forward passes",
                flush=True,
            )
            os._exit(0)
        os.waitpid(child, 0)


def processes(count: int, queries: int, rounds: int) -> None:
    """Wall time of labelling with ``count`` processes of one thread against one of them, and against one with all threads.

    The processes have loaded the model; the same prompts are scored, in turn. CPU seconds are the processes' own; on a busy
    machine, where wall time says nothing, those of the busiest one are what would pass on a quiet one.
    """
    import numpy as np

    from inranker_flow import cpus
    from inranker_flow.progress import Progress
    from inranker_flow.rankers.loading import load_reader
    from inranker_flow.scoring.job import Checkpoint
    from inranker_flow.scoring.processes import Workers

    def cpu_seconds(workers: Workers) -> np.ndarray:
        stats = [Path(f"/proc/{each.process.pid}/stat").read_text() for each in workers._workers.values()]
        ticks = [sum(map(int, each.rpartition(")")[2].split()[11:13])) for each in stats]
        return np.array(ticks) / os.sysconf("SC_CLK_TCK")

    model = Checkpoint(f"init:small?tokenizer={DATA / 'tokenizers' / 't5'}")
    groups = texts(queries)
    passages = [passage for _, passages in groups for passage in passages]
    index = np.array([(place // DOCUMENTS_PER_QUERY, place) for place in range(len(passages))])
    reader = load_reader(model.reference, model.scoring)
    prompts = reader.prepare([query for query, _ in groups], passages, index)
    threads = {"1 process, 1 thread": (1, "1"), f"{count} processes, 1 thread each": (count, "1")}
    threads[f"1 process, {cpus.available()} threads"] = (1, str(cpus.available()))
    with tempfile.TemporaryDirectory() as folder:
        variants = {}
        for name, (number, each) in threads.items():
            os.environ["OMP_NUM_THREADS"] = each
            variants[name] = Workers(model, prompts, number, Path(folder))
            while not all(each.ready for each in variants[name]._workers.values()):
                variants[name]._listen(None)
        wall, cpu, logits = {name: [] for name in variants}, {name: [] for name in variants}, {}
        load = f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()}"
        print(f"{len(passages)} pairs, {prompts.lengths.mean():.0f} tokens; {load}")
        for round in range(rounds + 1):
            for name, workers in variants.items():
                before, start = cpu_seconds(workers), time.monotonic()
                ((_, logits[name]),) = workers.score(
                    [(0, slice(0, len(passages)))], Progress("", 1, "tokens", every_seconds=1e9)
                )
                if round:  # the first is for caches
                    wall[name].append(time.monotonic() - start)
                    cpu[name].append(cpu_seconds(workers) - before)
        for workers in variants.values():
            workers.close()
    (base, *_), values = variants, list(logits.values())
    largest = max(np.abs(each - values[0]).max() for each in values)
    print(f"load average {os.getloadavg()[0]:.1f}; largest difference of a logit {largest}")
    print(
        "\n| | wall time, ratio (least to most) | CPU seconds | busiest process, ratio | CPUs in use |\n|---|---|---|---|---|"
    )
    for name, seconds in wall.items():
        ratios = sorted(b / a for a, b in zip(seconds, wall[base], strict=True))
        busiest = statistics.median(b.max() / a.max() for a, b in zip(cpu[name], cpu[base], strict=True))
        used = statistics.median(a.sum() / b for a, b in zip(cpu[name], seconds, strict=True))
        print(
            f"| {name} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | "
            f"{statistics.median(each.sum() for each in cpu[name]):.1f} | {busiest:.2f} | {used:.2f} |"
        )


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inranker", help="python of an environment with inranker")
    parser.add_argument("--ctranslate2", help="python of an environment with ctranslate2")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, help="measure the memory of labelling so many pairs instead")
    parser.add_argument("--processes", type=int, help="compare so many processes with one instead")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(options.worker, options.checkpoint)
    elif options.memory:
        memory(options.memory)
    elif options.processes:
        processes(options.processes, options.queries, options.rounds)
    else:
        compare(options)


if __name__ == "__main__":
    main()
