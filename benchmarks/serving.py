"""The server against the bare scorer, and under load while its champion changes.

    PYTHONPATH=src:. .venv/bin/python benchmarks/serving.py throughput [--model init:tiny] [--rounds 3]
    PYTHONPATH=src:. .venv/bin/python benchmarks/serving.py overhead
    PYTHONPATH=src:. .venv/bin/python benchmarks/serving.py load [--minutes 10] [--every 30]

throughput: 16 clients with 100 passages each, pairs a second of a server in a process of its own, and of `Reranker.score` of
the same pairs in another; in turn, and by CPU seconds, too, which a busy machine does not change. overhead: one client, a model
that reads 64 tokens. load: 4 clients without pause, and every EVERY seconds a promotion or a rollback, one of them to
a version whose files are damaged; it ends with status 1 where a request fails, an answer is none of the version that it names,
or the server grows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from inranker_flow.commands import champion
from inranker_flow.model_registry import registry
from inranker_flow.rankers.checkpoints import load_seq2seq
from inranker_flow.reranker import Reranker
from tests.promoting import stored, student, use_database
from tests.serving import PASSAGES, QUERY, Client, process, version

WORDS = [
    "garden",
    "river",
    "bridge",
    "copper",
    "moon",
    "stone",
    "winter",
    "apple",
    "market",
    "doctor",
    "of",
    "the",
    "in",
]
CLIENTS, LIST = 16, 100


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["throughput", "overhead", "load", "bare"])
    parser.add_argument("--model", default="init:tiny?seed=1")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=30.0)
    options = parser.parse_args()
    if options.what == "bare":
        return bare(options.model)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "load":
            return load(Path(folder), options.minutes, options.every)
        if options.what == "overhead":
            # Read at 64 tokens: the less the scores take, the less they hide what is beside them.
            overhead(student(Path(folder) / "model", 0, max_length=64), options.rounds or 300)
            return 0
        where = Path(folder) / "model"
        model, tokenizer = load_seq2seq(options.model)
        model.save_pretrained(where)
        tokenizer.save_pretrained(where)
        throughput(where, options.rounds or 9)
    return 0


def texts(seed: int, count: int = LIST) -> list[str]:
    """Passages of 15 to 45 words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(15, 46))) for _ in range(count)]


def cpu(process_id: int) -> float:
    """CPU seconds of a process and its threads."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process_id: int) -> float:
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def bare(model: str) -> int:
    """For each line of standard input score as many lists as it says; seconds and CPU seconds come out."""
    reranker = Reranker(model)
    pairs = [(QUERY, each) for seed in range(CLIENTS) for each in texts(seed)]
    reranker.score(pairs[:LIST])
    for line in sys.stdin:
        start, spent = time.perf_counter(), time.process_time()
        reranker.score(pairs[: int(line) * LIST])
        print(json.dumps([time.perf_counter() - start, time.process_time() - spent]), flush=True)
    return 0


class Bare:
    """The scorer without a server, in a process of its own."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, __file__, "bare", "--model", str(model)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def score(self, lists: int) -> tuple[float, float]:
        """Score; returns seconds and CPU seconds."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{lists}\n")
        self._process.stdin.flush()
        wall, spent = json.loads(self._process.stdout.readline())
        return wall, spent

    def close(self) -> None:
        self._process.communicate()


def throughput(model: Path, rounds: int) -> None:
    scorer = Bare(model)
    with process(str(model), "--queue=100", "--patience=600") as (started, client), ThreadPoolExecutor(CLIENTS) as pool:
        drained(started)
        lists = [texts(seed) for seed in range(CLIENTS)]
        for each in lists:
            client.post("/rerank", {"query": QUERY, "documents": each})
        scorer.score(CLIENTS)
        wall, spent = [], []
        for _ in range(rounds):
            bare_wall, bare_cpu = scorer.score(CLIENTS)
            start, before = time.perf_counter(), cpu(started.pid)
            asked = pool.map(lambda each: client.post("/rerank", {"query": QUERY, "documents": each})[0], lists)
            assert set(asked) == {200}
            wall.append(bare_wall / (time.perf_counter() - start))
            spent.append(bare_cpu / (cpu(started.pid) - before))
            pairs = CLIENTS * LIST / bare_wall
            print(f"bare {pairs:,.0f} pairs/s; served / bare {wall[-1]:.3f}, by CPU {spent[-1]:.3f}", flush=True)
        print(f"served / bare: {statistics.median(wall):.3f}, by CPU seconds {statistics.median(spent):.3f} (bar 0.9)")
    scorer.close()


def overhead(model: Path, rounds: int) -> None:
    """What one client waits longer than the bare scorer takes for the same 100 passages, and the CPU seconds of both processes.

    Asked in turn, so that a busy machine slows both; the medians of ROUNDS requests count.
    """
    documents, scorer = texts(0), Bare(model)
    with process(str(model)) as (started, client):
        drained(started)
        for _ in range(10):
            client.post("/rerank", {"query": QUERY, "documents": documents})
            scorer.score(1)
        served, bare, spent, spoken = [], [], [], on_cpu(started.pid, str(started.pid))
        for _ in range(rounds):
            bare.append(scorer.score(1))
            start, before = time.perf_counter(), on_cpu(started.pid)
            client.post("/rerank", {"query": QUERY, "documents": documents})
            served.append(time.perf_counter() - start)
            spent.append(on_cpu(started.pid) - before)
        spoken = (on_cpu(started.pid, str(started.pid)) - spoken) / rounds
        print(f"the thread that speaks HTTP: {1000 * spoken:.2f} ms of CPU a request")
        more = {
            "by the clock, with the client's own work": [a - b for a, (b, _) in zip(served, bare, strict=True)],
            "of CPU": [a - b for a, (_, b) in zip(spent, bare, strict=True)],
        }
        print(
            f"100 passages, one client; bare {1000 * statistics.median(wall for wall, _ in bare):.1f} ms. More (bar 3 ms):"
        )
        for name, seconds in more.items():
            low, middle, high = statistics.quantiles(seconds, n=4)
            print(f"  {1000 * middle:.2f} ms {name} (quartiles {1000 * low:.2f}, {1000 * high:.2f})")
    scorer.close()


def on_cpu(process_id: int, thread: str = "*") -> float:
    """CPU seconds of all threads of a process, or of one, exactly."""
    threads = Path(f"/proc/{process_id}/task").glob(f"{thread}/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def drained(started: subprocess.Popen[str]) -> None:
    """Read the server's log, so that its pipe never fills."""
    assert started.stderr
    threading.Thread(target=started.stderr.read, daemon=True).start()


def load(folder: Path, minutes: float, every: float) -> int:
    use_database(folder)
    students = [student(folder / f"student{seed}", seed) for seed in range(3)]
    for number, each in enumerate(students[:2]):
        version("loaded", each, folder / f"e{number}")
    corrupt = version("loaded", students[2], folder / "e2")
    champion.rollback("loaded", "version 3 is for later")
    [weights] = stored("loaded", corrupt).rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    expected = {f"models:/loaded/{n + 1}": Reranker(students[n]).score([(QUERY, p) for p in PASSAGES]) for n in (0, 1)}
    with process("loaded", "--poll=2") as (started, client):
        drained(started)
        seen, failed, sizes = watch(client, started.pid, expected, corrupt, minutes, every)
        state = client.get("/health")[1]
        asked = sum(seen.values())
        started.terminate()
        status = started.wait()
    half = sizes[len(sizes) // 4 : len(sizes) // 2], sizes[-len(sizes) // 4 :]
    growth = statistics.mean(half[1]) - statistics.mean(half[0])
    print(f"{asked:,} answers: {dict(seen)}; failed or wrong: {len(failed)} {failed[:3]}")
    print(
        f"refused: {list(state['failed'])}; memory {sizes[0]:.0f} MB, then {growth:+.0f} MB in the second half; exit {status}"
    )
    wrong = (
        failed or f"models:/loaded/{corrupt}" in seen or growth > 20 or status or len(seen) < 2 or not state["failed"]
    )
    return 1 if wrong else 0


def watch(
    client: Client, process_id: int, expected: dict[str, np.ndarray], corrupt: str, minutes: float, every: float
) -> tuple[Counter[str], list[str], list[float]]:
    """Ask with four clients while the champion changes; (answers by version, what went wrong, MB of the server)."""
    seen: Counter[str] = Counter()
    failed: list[str] = []
    sizes: list[float] = []
    ended = threading.Event()
    body = json.dumps({"query": QUERY, "documents": PASSAGES, "raw_scores": True}).encode()

    def ask() -> None:
        while not ended.is_set():
            answer = client.send("POST", "/rerank", body)
            served = answer.headers.get("x-inranker-model", "")
            seen[served] += 1
            if answer.status != 200:
                failed.append(f"{answer.status} {answer.data[:100]!r}")
                continue
            results = sorted(json.loads(answer.data)["results"], key=lambda each: each["index"])
            scores = np.array([each["relevance_score"] for each in results])
            if served not in expected or not np.allclose(scores, expected[served], atol=1e-3):
                failed.append(f"scores of {served}")

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask) for _ in range(4)]
        until = time.monotonic() + 60 * minutes
        for number in itertools.cycle(("2", corrupt, "1")):
            # As another tool would move it: this project's own commands refuse a damaged version.
            registry.set_alias(registry.version("loaded", number), registry.CHAMPION)
            change = min(time.monotonic() + every, until)
            while time.monotonic() < change:
                sizes.append(resident_mb(process_id))
                time.sleep(1)
            if time.monotonic() >= until:
                break
        ended.set()
        for each in running:
            each.result()
    return seen, failed, sizes


if __name__ == "__main__":
    sys.exit(main())
