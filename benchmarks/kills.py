"""SIGKILL at random moments of the compiled pipeline: every rerun completes, with the results of an undisturbed run.

    PYTHONPATH=src:. .venv/bin/python benchmarks/kills.py [--kills 50] [--seed 1]

An undisturbed run of the profile `smoke`, with small shards, says what the results are and how long it takes. Then runs of
the same are started in a new folder with an empty store; each attempt is killed at a random moment, in turn with all its
processes or alone, until one comes to its end, and so on in the next folder until there were enough kills. After each kill no
process may be left that names the folder. Compared are the contents of queries, candidates and labels, and the weights of
both students.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from inranker_flow.artifacts.manifest import read_manifest
from tests.processes import MAKE_RUN, alive

#: Shards of seconds, on a teacher that needs some.
SETTINGS = (
    "teacher.shard_pairs=40", "generation.shard_documents=10", "phase1.save_every=2", "phase2.save_every=2",
    "evaluation.teacher=false",
)  # fmt: skip
STAGE_LINE = re.compile(r"\d\d:\d\d:\d\d \[(\w+)")


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """A run in ``folder``, leader of a group of its own."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "INRANKER_"))}
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [
        *MAKE_RUN,
        "inranker",
        "--profile",
        "smoke",
        "--run-dir",
        str(folder),
        *settings,
    ]
    with open(log, "ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)


def results(folder: Path) -> dict[str, str]:
    """Artifact -> digest of what must be the same."""
    found = {}
    for path in sorted((folder / "artifacts").rglob("manifest.json")):
        if {"store", "scratch"} & set(path.relative_to(folder / "artifacts").parts):
            continue
        manifest = read_manifest(path.parent)
        weights = manifest.files.get("model.safetensors")
        if manifest.stage in ("generate_queries", "retrieve", "teacher_label") or weights:
            found[f"{path.parent.parent.name}/{path.parent.name}/{manifest.dataset}"] = weights or manifest.content
    return found


def hit(log: Path) -> str:
    """The stage that the last line of the log is of."""
    lines = STAGE_LINE.findall(log.read_text(errors="replace"))
    return lines[-1] if lines else "start"


def left(folder: Path, seconds: float = 60.0) -> dict[int, str]:
    """What a killed run has left at work, after a time in which it may have noticed."""
    until = time.monotonic() + seconds
    while (found := alive(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and compare; status 1 where a result is another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    moments, hits, kills, wrong, attempts = random.Random(options.seed), Counter[str](), 0, 0, 0
    with tempfile.TemporaryDirectory() as root:
        begin = time.monotonic()
        alone = start(Path(root) / "alone", Path(root) / "alone.log")
        if alone.wait():
            print((Path(root) / "alone.log").read_text()[-2000:])
            return 1
        seconds, expected = time.monotonic() - begin, results(Path(root) / "alone")
        print(f"undisturbed: {seconds:.0f} s, {len(expected)} artifacts", flush=True)
        while kills < options.kills:
            attempts += 1
            folder, log = Path(root) / f"run{attempts}", Path(root) / f"run{attempts}.log"
            while True:
                run = start(folder, log)
                try:
                    # Late in an attempt too: it has what the ones before it finished.
                    run.wait(moments.uniform(3, seconds * 0.6) if kills < options.kills else None)
                except subprocess.TimeoutExpired:
                    # The run alone: what it has started must end by itself.
                    (os.kill if kills % 2 else os.killpg)(run.pid, signal.SIGKILL)
                    run.wait()
                    kills += 1
                    orphans = left(folder)
                    wrong += bool(orphans)
                    if orphans:
                        print(f"run {attempts}: still alive after the kill: {orphans}", flush=True)
                    hits[hit(log)] += 1
                    continue
                break
            found = results(folder)
            same = {key.split("/", 1)[1]: value for key, value in found.items()} == {
                key.split("/", 1)[1]: value for key, value in expected.items()
            }
            ok = run.returncode == 0 and same
            wrong += not ok
            print(
                f"run {attempts}: {kills} kills so far, status {run.returncode}, {'same' if same else 'OTHER'} results",
                flush=True,
            )
            if not ok:
                print(
                    log.read_text(errors="replace")[-1500:],
                    json.dumps({"expected": expected, "found": found}, indent=1),
                )
    print(f"{kills} kills in {attempts} runs, {wrong} wrong; hit: {dict(hits.most_common())}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
