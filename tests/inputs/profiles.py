"""Profiles, settings and make's variables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from inranker_flow import profiles
from tests.inputs.table import PASSWORD, Input, command


def compiled(*options: str) -> int:
    return command("compile", "inranker", "--out", "build", *options)


def setting(what: str, value: str, *says: str, status: int = 2) -> Input:
    """One SET= on the demo."""
    return Input(what, lambda here: compiled("--set", value), says, status)


def file(what: str, content: str | bytes | Callable[[Path], None], *says: str, status: int = 2) -> Input:
    """A profile of one's own."""

    def act(here: Path) -> int:
        path = here / "mine.yaml"
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return compiled("--profile", "mine.yaml")

    return Input(what, act, says, status)


SMOKE = (profiles.PROFILES / "smoke.yaml").read_text(encoding="utf-8")

INPUTS = [
    Input(
        "a profile that is not there",
        lambda here: compiled("--profile", "nowhere"),
        ("PROFILE=nowhere: no such profile", "demo"),
    ),
    file("a profile that is a folder", Path.mkdir, "mine.yaml: is a folder; give a text file"),
    file("a profile that is a pipe", lambda path: os.mkfifo(path), "mine.yaml: is a pipe or a device"),
    file("a profile that is a loop of links", lambda path: path.symlink_to(path), "mine.yaml: cannot be read"),
    file("an empty profile", "", "mine.yaml: expected sections with keys"),
    file("a binary profile", b"\x7fELF\x02\0\0", "mine.yaml: holds NUL bytes"),
    file("a profile in Latin-1", SMOKE.encode() + "# café".encode("latin-1"), "not UTF-8", "save it as UTF-8"),
    file("a profile in UTF-16 with its mark", SMOKE.encode("utf-16"), "inranker.yaml", status=0),
    file("a profile with a byte order mark", SMOKE.encode("utf-8-sig"), "inranker.yaml", status=0),
    file("a profile that contains itself", "source: &a [*a]", "an alias (*NAME) stands inside of what it names"),
    file("a key twice", f"{SMOKE}\nseed: 2\n", "the key seed is there twice"),
    file("a tag of Python", "source: !!python/object:os.x {}", "not valid YAML"),
    file("a tab", "source:\n\turi: x", "not valid YAML", "line 2"),
    file("a section that is a list", f"{SMOKE}\ncorpora: [1]\n", "corpora: expected a section with keys"),
    file("a section without keys", f"{SMOKE}\ncorpora:\n", "inranker.yaml", status=0),
    file("a section that there is not", f"{SMOKE}\nphase3: {{}}\n", "unknown section 'phase3'; did you mean"),
    setting("a setting without a value", "phase1.epochs=", "SET: phase1.epochs: has no value"),
    setting("a setting without a key", "=1", "is not of the form section.key=value"),
    setting("a key that is misspelt", "phase1.droput=0.1", "did you mean 'dropout'?"),
    setting("a measure of 0 documents", "evaluation.measures=[nDCG@0]", "cutoff cannot be 0"),
    setting("a measure for numeric ids", "evaluation.measures=[nDCG@10, ERR@20]", "takes only numbers as ids"),
    Input(
        "a measure in brackets",
        lambda here: compiled("--set", "evaluation.measures=[P(rel=2)@5]", "--set", "promotion.measure=P(rel=2)@5"),
        ("inranker.yaml",),
        0,
    ),
    setting("a gate that no model can pass", "promotion.measure=R@30", "no model could ever win"),
    setting(
        "a cutoff below the candidates",
        "evaluation.measures=[nDCG@10, R@500]",
        "NOTE: ",
        "retrieval.test_depth",
        status=0,
    ),
    setting(
        "a model name that MLflow refuses", "promotion.model_name=team:a", "promotion.model_name: 'team:a' is no name"
    ),
    setting("a variant that is not made", "promotion.variant=openvino", "not among export.variants (onnx, onnx-int8)"),
    setting("a variant that there is not", "export.variants=[onnx4]", "export.variants", "'onnx4'"),
    setting("stop words that there are not", "retrieval.stopwords=klingon", "retrieval.stopwords"),
    setting("a prompt that there is not", "generation.prompt=inpars-v9", "no readable template file", "inpars-v1"),
    setting("one token for both answers", "phase1.true_token=▁false", "they must differ"),
    setting("an answer that the student does not know", "phase1.true_token=▁oui", "the vocabulary has no token '▁oui'"),
    setting("adapters for a T5", "phase1.lora_rank=8", "phase1.lora_rank 8 is for causal students", "monot5"),
    setting("a student's prompt that is not there", "phase1.prompt=none.txt", "phase1.prompt", "none.txt"),
    setting("a dropout of 5", "phase1.dropout=5", "phase1.dropout: 5.0 is above 1"),
    setting("a dropout below 0", "phase1.dropout=-0.5", "phase1.dropout: -0.5 is below 0"),
    setting(
        "a learning rate that is no number",
        "phase1.learning_rate=.nan",
        "phase1.learning_rate: expected float, got nan",
    ),
    setting("three tokens", "phase1.max_length=3", "phase1.max_length: 3 is below 16"),
    setting("a million tokens", "teacher.scoring.max_length=1000000", "teacher.scoring.max_length: 1000000 is above"),
    setting("a number of thirty digits", f"phase1.epochs={10**30}", "phase1.epochs: 1000000"),
    setting(
        "a number of five thousand digits",
        f"phase1.epochs={'9' * 5000}",
        "SET: phase1.epochs: the value: not valid YAML",
    ),
    setting(
        "a password in the endpoint",
        f"generation.endpoint=http://anna:{PASSWORD}@host/v1",
        "generation.endpoint: holds",
    ),
    setting(
        "a password in a collection's address",
        f"source=s3://key:{PASSWORD}@bucket/x",
        "source.uri: holds a user's name",
    ),
    setting("a server without an address", "generation.backend=openai", "generation.endpoint: missing"),
    setting(
        "a judge's prompt without a place for the passage",
        "evaluation.judge={checkpoint: x/y, prompt: 'Grade {query}'}",
        "evaluation.judge.prompt: of its own text: the template has no {passage}",
    ),
    setting(
        "a judge that writes no answers",
        "evaluation.judge={checkpoint: x/y, backend: crop}",
        "evaluation.judge.backend",
    ),
    setting("no generator", "generation.checkpoint=''", "generation.checkpoint: missing", "generation.backend=crop"),
    setting(
        "crops that must not be copies", "generation={backend: crop, drop_copied: true}", "generation.drop_copied: true"
    ),
    setting(
        "an unknown kind of address", "source=gs://bucket/x", "source.uri: 'gs://bucket/x': no such kind of address"
    ),
    setting("a collection of the demo that there is not", "source=demo:source/one", "demo:source/SEED"),
    setting("a first stage that there is not", "retrieval.first_stage=splade", "retrieval.first_stage"),
    setting("a bi-encoder that is not named", "retrieval.first_stage=dense", "retrieval.dense.checkpoint"),
    setting("more negatives than candidates", "retrieval.negatives=31", "cannot be drawn from the top 30"),
    Input(
        "a folder's name without Latin letters",
        lambda here: compiled("--source", "/data/语料库"),
        ("source: '/data/语料库' gives the collection no name", "profile file of yours"),
    ),
    Input(
        "names that differ by case alone",
        lambda here: compiled("--targets", "a/Wiki,b/wiki"),
        ("two collections are named 'Wiki' and 'wiki'", "a/Wiki", "b/wiki"),
    ),
    Input(
        "a setting twice",
        lambda here: compiled("--set", "phase1.epochs=1", "--set", "phase1.epochs=2"),
        ("SET: phase1.epochs is given twice: 1 and 2",),
    ),
    Input(
        "a seed in two places",
        lambda here: compiled("--seed", "1", "--set", "seed=2"),
        ("SEED and SET=seed differ: 1 and 2",),
    ),
    Input("a negative seed", lambda here: compiled("--seed=-1"), ("SEED: expected a whole number from 0",)),
    Input("no target", lambda here: compiled("--targets", ","), ("TARGETS: ',' names no collection",)),
]
