"""What a profile says is checked where it is read: values, names, files that are named, and what they mean together."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from inranker_flow import profiles
from inranker_flow.commands.options import add_options, profile_of, resolve
from inranker_flow.errors import UserError
from inranker_flow.rankers.checkpoints import DEMO
from inranker_flow.settings import checks
from inranker_flow.settings.profile import Profile, parse_overrides
from tests.unit.test_settings import HOSTILE


def load(*settings: str, name: str = "demo") -> Profile:
    return profiles.load(name, parse_overrides(settings))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "demo"),
        (["--source=a/folder"], "smoke"),
        (["--targets=a/folder"], "smoke"),
        (["--set=targets=[a/folder]"], "smoke"),
        (["--set=phase1.max_steps=3", "--source=", "--targets="], "demo"),
        (["--targets=a/folder", "--profile=my profile.yaml"], "my profile.yaml"),
    ],
)
def test_the_profile_follows_the_collections_unless_it_is_given(given, expected):
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert profile_of(parser.parse_args(given)) == expected


def refused(*settings: str, name: str = "demo") -> str:
    with pytest.raises(UserError) as caught:
        load(*settings, name=name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 1_500, message
    return message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        # names of things that are looked up
        ("evaluation.measures=[nDCG@10, ERR@10]", "'ERR@10' is not a measure"),
        ("evaluation.measures=[nDCG@10, nDCG@0]", "cutoff cannot be 0"),
        ("evaluation.measures=[nDCG@10, NDCG@10]", "are one measure"),
        ("evaluation.measures=[]", "evaluation.measures: empty"),
        ("promotion.model_name=team/inranker", "promotion.model_name: 'team/inranker' is no name"),
        ("promotion.model_name=''", "promotion.model_name: is empty"),
        ("promotion.model_name=inranker-history", "no -history at its end"),
        ("retrieval.stopwords=klingon", "retrieval.stopwords: "),
        ("retrieval.stemmer=klingon", "retrieval.stemmer: 'klingon' is not one of"),
        ("generation.prompt=nowhere", "generation.prompt: nowhere: no readable template file"),
        ('generation.prompt="ask\\n me"', "generation.prompt: of its own text: the template has no {document}"),
        ("targets=[{uri: demo:target/1, prompt: nowhere}]", "targets[0].prompt: nowhere: no readable template file"),
        ("teacher.scoring.prompt=nowhere", "teacher.scoring.prompt: nowhere: no readable template file"),
        ("teacher.scoring.prompt='{query} {document}'", "teacher.scoring.prompt: the template needs"),
        # label tokens
        ("phase1.true_token=▁false", "phase1: true_token and false_token are both '▁false'"),
        ("phase2.true_token=▁xylophone", "the vocabulary has no token '▁xylophone'"),
        # checkpoints
        ("phase1.checkpoint=demo:nobody", "phase1.checkpoint: demo:nobody: no such demo model"),
        ("teacher.checkpoint=demo:..", "teacher.checkpoint: demo:..: no such demo model"),
        ("teacher.checkpoint=demo:teacher/../student", "no such demo model"),
        ("teacher.checkpoint=init:huge", "teacher.checkpoint: init:huge: no size 'huge'"),
        ("teacher.checkpoint=init:tiny?tokeniser=x", "'tokeniser=x' is not understood"),
        ("teacher.checkpoint=init:tiny?seed=x", "seed 'x' is not a whole number"),
        ("teacher.checkpoint=init:tiny?seed=²", "seed '²' is not a whole number"),
        ("teacher.checkpoint=init:tiny?tokenizer=demo:nobody", "demo:nobody: no such demo model"),
        ("teacher.checkpoint=init:tiny?tokenizer=init:tiny", "has no tokenizer of its own"),
        ("teacher.checkpoint=htp://x/y", "teacher.checkpoint: 'htp://x/y': no such kind of address"),
        ("phase1.checkpoint=https://huggingface.co/google-t5/t5-small", "the hub's id is google-t5/t5-small"),
        ("generation.checkpoint=a/b/c", "generation.checkpoint: 'a/b/c': neither a folder here nor an id of the hub"),
        ("teacher.checkpoint=models:/name", "models:/NAME/VERSION"),
        ("teacher.checkpoint=s3://", "names nothing"),
        ("phase2.checkpoint=demo:student", "phase2.checkpoint must stay empty"),
        ("teacher.scoring.kind=causal", "teacher.scoring.kind: causal, but demo:teacher is of the kind monot5"),
        ("teacher.checkpoint=BAAI/x teacher.scoring.kind=encoder teacher.scoring.dtype=int8", "teacher.scoring.dtype: int8"),
        ("teacher.checkpoint=BAAI/x teacher.scoring.kind=causal teacher.scoring.truncation=reference", "truncation: reference"),
        ("teacher.scoring.dtype=int8 teacher.scoring.forward=reference", "not for forward: reference"),
        # the language model's server
        ("generation.backend=openai", "generation.endpoint: missing"),
        ("generation.endpoint=ftp://host/v1", "generation.endpoint: is no address"),
        ("generation.endpoint=http://anna:s3cret@host/v1", "generation.endpoint: holds a user's name, a password"),
        # the teacher's server, and several teachers
        ("teacher.backend=server", "teacher.server.endpoint: missing"),
        ("teacher.server.endpoint=http://anna:s3cret@host", "teacher.server.endpoint: holds a user's name"),
        (
            "teacher.also=[{checkpoint: m, backend: server, server: {endpoint: http://h, api: tei, request_fields: {texts: 1}}}]",
            "teacher.also[0].server.request_fields: texts cannot be set there",
        ),
        ("teacher.also=[demo:teacher]", "teacher.also[0]: expected a section with keys"),
        ("teacher.also=[{checkpoint: a/b}, {checkpoint: a/b}]", "teacher.also[1].checkpoint: a/b is the teacher of"),
        ("teacher.also=[{checkpoint: a/b/c}]", "teacher.also[0].checkpoint: 'a/b/c': neither a folder here nor an id"),
        ("teacher.also=[{checkpoint: demo:student, scoring: {kind: causal}}]", "teacher.also[0].scoring.kind: causal, but"),
        ("teacher.also=[{checkpoint: m, backend: server}]", "teacher.also[0].server.endpoint: missing"),
        # collections
        ("source=demo:source/x", "source.uri: demo:source/x: the demo's collections are"),
        ("source=demo:source", "demo:source/SEED"),
        ("source=demo:sauce/1", "demo:source/SEED"),
        ("source=demo:teacher", "demo:source/SEED"),
        ("source=demo:source/²", "demo:source/SEED"),
        ("source=htp://x/y", "source.uri: 'htp://x/y': no such kind of address"),
        ("source=gs://bucket/x", "no such kind of address"),
        ("source=irdatasets:beir/scifact", "did you mean 'ir_datasets'?"),
        ("source='ir_datasets:'", "source.uri: 'ir_datasets:' names nothing"),
        ("source=s3://", "names nothing"),
        ("source={uri: '', name: x}", "source.uri: is empty"),
        ("source={uri: '  ', name: x}", "source.uri: '  ' holds nothing but blanks"),
        ("source={uri: 5}", "source.uri: expected str, got 5"),
        ("source={name: x}", "source.uri: missing"),
        ("source={uri: /data/x, labels: x.tsv}", "source.labels: 'x.tsv' is not one of the published formats"),
        ("source={uri: /data/x, labels: 'inranker-msmarco:'}", "is not one of the published formats"),
        ("source={uri: /data/x, train_split: a, test_split: a}", "would be a leak"),
        ("source={uri: /data/x, test_split: ../../etc}", "source.test_split: '../../etc' may hold only"),
        ("source=/data/语料库", "rename the folder"),
        ("targets=[/data/语料库]", "targets[0]: '/data/语料库' gives the collection no name"),
        ("source={uri: /x, name: .hidden}", "collection name '.hidden' may hold only letters"),
        ("source={uri: /x, name: ..}", "collection name '..' may hold only letters"),
        (f"source={{uri: /x, name: {'n' * 300}}}", "100 at most"),
        ("targets=[a/Corpus, b/corpus]", "two collections are named 'Corpus' and 'corpus'"),
        ("targets=[{uri: /a, name: x}, {uri: /a, name: y}]", "/a is there twice (x and y)"),
        ("targets=a/b", "targets must be a list of collections"),
        ("targets={a: b}", "targets must be a list of collections"),
        ("targets=[[a]]", "targets[0]: expected a section with keys"),
        ("targets=[null]", "targets[0]: expected a section with keys"),
        ("corpora.uri=gs://bucket", "corpora.uri: 'gs://bucket': no such kind of address"),
        # what values mean together
        ("retrieval.depth=5 retrieval.negatives=6", "retrieval.negatives: 6 cannot be drawn from the top 5"),
        ("generation.min_query_words=9 generation.max_query_words=3", "max_query_words: 3 is below generation.min_query_words"),
        ("generation.min_document_words=9 generation.max_document_words=3", "generation.max_document_words: 3 is below"),
        ("evaluation.passage_words=10 evaluation.passage_stride=11", "evaluation.passage_stride: 11 is above"),
        ("evaluation.passage_stride=1", "evaluation.passage_stride: 1 is above evaluation.passage_words (0)"),
        ("promotion.measure=R@30", "promotion.measure: R@30 is the same for every order of the 30 candidates"),
        ("retrieval.test_depth=1", "is the same for every order of the 1 candidates"),
        ("promotion.latency_budget_ms=5 evaluation.latency_queries=0", "no latency would be measured"),
        (
            "promotion.variant=onnx promotion.latency_budget_ms=5 export.latency_queries=0",
            "export.latency_queries is 0, so its latency would not be measured",
        ),
        ("export.variants=[onnx, tensorrt]", "'tensorrt'"),
        ("phase1.start=champion", "phase1.start: only phase 2"),
        ("phase1.replay=0.3", "phase1.replay: phase 1 sees nothing but the source"),
        ("retrieval.negatives=0 phase2.loss=margin_mse", "phase2.loss: margin_mse compares the documents of a query"),
        ("cluster.gpu_tolerations=[{key: a, value: b}]", "cluster.gpu_tolerations[0].value: Kubernetes takes none"),
        ("cluster.gpu_tolerations=[{key: '', operator: Equal}]", "cluster.gpu_tolerations[0].key: empty"),
        ("cluster.gpu_type=a b", "cluster.gpu_type: 'a b' is no name that Kubernetes takes"),
        # sections
        ("phase1=3", "phase1: expected a section with keys, got 3"),
        ("phase1=[a]", "phase1: expected a section with keys"),
        ("teacher={}", "section 'teacher' is missing or empty"),
        ("phase3.epochs=1", "unknown section 'phase3'; did you mean 'phase"),
        ("a.b.c.d=1", "unknown section 'a'"),
        ("phase1.epochs.x=1", "phase1.epochs"),
        ("targets.0.uri=x", "targets is not a section"),
        ("phase1.batchsize=3", "did you mean 'batch_size'?"),
        ("seed=-1", "SEED: expected a whole number from 0"),
        ("seed=99999999999999999999", "SEED: expected a whole number from 0"),
        ("seed=1.5", "SEED: expected a whole number"),
        ("seed=true", "SEED: expected a whole number"),
        ("tokenizer=[a]", "TOKENIZER: expected a folder or a hub id"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_where_it_is_read(settings, said):
    parts = [settings] if any(each in settings for each in "[{'\"") or "=a b" in settings else settings.split(" ")
    message = refused(*parts)
    assert said in message and "s3cret" not in message


def test_a_budget_is_about_a_variant_that_is_made():
    assert "openvino is not among export.variants (onnx)" in refused(
        "promotion.variant=openvino", "export.variants=[onnx]"
    )
    assert load("promotion.variant=onnx", "export.variants=[onnx]")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("nonsense", "SET: nonsense is not of the form section.key=value"),
        ("=b", "is not of the form"),
        ("a=", "SET: a: has no value; give one, as in a=VALUE"),
        ("phase1.epochs=~", "SET: phase1.epochs: has no value"),
        (".=1", "is not of the form"),
        ("a..b=1", "is not of the form"),
        ("a b=1", "is not of the form"),
        ("generation endpoint=http://anna:s3cret@h", "is not of the form"),
        ("phase1.epochs=[1", "SET: phase1.epochs: the value: not valid YAML"),
        ("phase1.epochs=" + "9" * 5_000, "SET: phase1.epochs: the value: not valid YAML"),
        ("phase1.epochs=" + "[" * 1_500, "nested too deeply"),
        ("phase1.epochs=!!python/name:os.system", "not valid YAML"),
        ("generation.prompt=" + "x" * 200_000, "put it into a file"),
    ],
)
def test_a_setting_that_is_none_is_refused_without_what_may_be_a_key(setting, said):
    message = refused(setting)
    assert said in message and "s3cret" not in message


def test_a_setting_is_given_once_and_what_holds_another_goes_first():
    assert "SET: phase1.epochs is given twice: 1 and 2" in refused("phase1.epochs=1", "phase1.epochs=2")
    assert load("phase1.epochs=2", "phase1.epochs=2").phase1.epochs == 2
    changed = load("source.test_split=dev", "source=/data/mine")
    assert (changed.source.uri, changed.source.name, changed.source.test_split) == ("/data/mine", "mine", "dev")
    assert load("phase1.max_steps=7").phase2.max_steps == 650, "phase2 is made of phase1 in the file, and not the same"


def options(*arguments: str) -> Profile:
    import argparse

    parser = argparse.ArgumentParser()
    add_options(parser)
    return resolve(parser.parse_args(arguments))


def test_a_variable_and_a_setting_do_not_contradict_each_other():
    assert options("--seed", "3", "--set", "seed=3").phase1.seed == 3
    for arguments, said in (
        (("--seed", "3", "--set", "seed=4"), "SEED and SET=seed differ: 3 and 4"),
        (("--student", "a/b", "--set", "phase1.checkpoint=c/d"), "STUDENT and SET=phase1.checkpoint differ"),
        (("--seed", "²"), "SEED: expected a whole number"),
        (("--seed=-1",), "SEED: expected a whole number from 0"),
        (("--targets", " , "), "TARGETS: "),
    ):
        with pytest.raises(UserError, match=said):
            options(*arguments)


def test_what_works_and_is_perhaps_not_meant_is_one_line_each(capsys):
    options(
        "--set",
        "evaluation.measures=[nDCG@10, R@100]",
        "--set",
        "phase1.warmup_steps=300",
        "--set",
        "teacher.keep_queries=900000",
        "--set",
        "teacher.server.endpoint=http://host:8000",
        "--set",
        "teacher.also=[{checkpoint: m, backend: server, scoring: {max_length: 99}, server: {endpoint: http://host:8000}}]",
    )
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in told] == [
        " evaluation.measures",
        " phase1.warmup_steps",
        " teacher.server",
        " teacher.also[0].scoring",
        " teacher.keep_queries",
    ]
    for name in ("demo", "smoke", "small", "encoder", "paper"):
        assert not list(checks.notes(profiles.load(name)))


@pytest.mark.parametrize(
    "settings",
    [
        ("evaluation.measures=[P(rel=2)@10]", "promotion.measure=P(rel=2)@10"),
        ("evaluation.measures=[AP, nDCG@10]",),
        ("promotion.model_name=my model.v2",),
        ("retrieval.stopwords=''", "retrieval.stemmer=''"),
        ("retrieval.stemmer=portuguese",),
        ("phase1.learning_rate=7e-5", "phase1.dropout=-1", "phase1.epochs=2.0"),
        ("generation.prompt='Ask\n about {document}'",),
        ("source={uri: /data/语料库, name: yuliaoku}",),
        ("source=./a/b:c",),
        ("targets=[s3://bucket/a, 'file:///data/b', 'hf://owner/set/c.parquet', ir_datasets:beir/scifact/test]",),
        ("targets=[{uri: /a, name: x}, {uri: /a, name: y, test_split: dev}]",),
        ("source={uri: /a, labels: 'inranker-msmarco:/b/c.tsv'}",),
        ("teacher.checkpoint=models:/inranker/3", "phase1.checkpoint=models:/inranker@champion"),
        ("teacher.checkpoint=gpt2", "phase1.checkpoint=google-t5/t5-small", "generation.checkpoint=~/model"),
        ("generation.backend=openai", "generation.endpoint=http://[::1]:8000/v1", "generation.checkpoint=a/b/c:latest"),
        ("phase2.start=champion", "phase2.replay=0.5"),
        ("evaluation.passage_words=100", "evaluation.passage_stride=100"),
        ("cluster.gpu_tolerations=[{key: ''}]",),
        ("corpora.uri=s3://bucket/corpora", "targets=[]"),
        ("phase1={checkpoint: demo:student}",),
    ],
)
def test_what_can_work_is_taken(settings):
    assert load(*settings)


def test_every_key_of_a_profile_refuses_hostile_values_in_one_line_that_names_it():
    """Through the whole of `load`, with the values one after another in turn."""
    found = profiles.load("demo")
    number = 0
    for section in dataclasses.fields(Profile):
        each = getattr(found, section.name)
        for key in () if isinstance(each, tuple) else [one.name for one in dataclasses.fields(each)]:
            for value in (HOSTILE[number % len(HOSTILE)], HOSTILE[(number + 7) % len(HOSTILE)]):
                number += 1
                try:
                    profiles.load("demo", {f"{section.name}.{key}": value})
                except UserError as error:
                    assert len(str(error).splitlines()) == 1 and len(str(error)) < 1_500 and "secret" not in str(error)
                    assert key in str(error) or key.partition("_")[0] in str(error), (
                        section.name,
                        key,
                        value,
                        str(error),
                    )


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_every_section_refuses_hostile_values_in_one_line(value):
    for section in ("seed", "tokenizer", *(each.name for each in dataclasses.fields(Profile))):
        try:
            profiles.load("demo", {section: value})
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 1_500 and "secret" not in str(error)


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_section_whose_keys_are_all_commented_out_is_empty(tmp_path):
    text = (profiles.PROFILES / "demo.yaml").read_text(encoding="utf-8")
    assert profiles.load(written(tmp_path / "a.yaml", f"{text}\npromotion:\n#  alpha: 1\ncorpora:\n")) == profiles.load(
        "demo"
    )


def test_a_file_that_is_no_profile_is_one_line(tmp_path):
    smoke = (profiles.PROFILES / "smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    files: dict[str, tuple[str | bytes | None, str]] = {
        "empty.yaml": ("", "expected sections with keys, got None"),
        "list.yaml": ("[a, b]", "expected sections with keys"),
        "text.yaml": ("hello", "expected sections with keys"),
        "itself.yaml": ("source: &a [*a]", "an alias (*NAME) stands inside"),
        "twice.yaml": (f"{smoke}\nseed: 2\n", "the key seed is there twice"),
        "deep-twice.yaml": (f"{smoke}\ncluster: {{gpus: 1, gpus: 2}}\n", "the key gpus is there twice"),
        "tag.yaml": ("source: !!python/object:os.x {}", "not valid YAML"),
        "tab.yaml": ("source:\n\turi: x", "not valid YAML"),
        "binary.yaml": (b"\x7fELF\x00\x01", "holds NUL bytes"),
        "latin.yaml": (smoke.replace("smoke:", "größe:").encode("latin-1"), "not UTF-8"),
        "number.yaml": ("1: 2", "unknown section 1"),
        "null.yaml": ("~: 2", "unknown section None"),
        "yes.yaml": ("on: 2", "unknown section True"),
        "huge.yaml": (b"# " + b"x" * 200_000, "has 200,002 bytes"),
        "folder.yaml": (None, "is a folder"),
        "pipe.yaml": (None, "is a pipe or a device"),
        "loop.yaml": (None, "cannot be read"),
        "dangling.yaml": (None, "no such profile"),
        "nowhere.yaml": (None, "no such profile"),
        f"{'x' * 300}.yaml": (None, "cannot be read"),
    }
    for name, (content, said) in files.items():
        path = str(tmp_path / name) if content is None else written(tmp_path / name, content)
        with pytest.raises(UserError) as caught:
            profiles.load(path)
        assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1, name
    for name in ("", " ", "a\0b", "../profiles", "demo.json", "no\nwhere", "x" * 5_000):
        with pytest.raises(UserError) as caught:
            profiles.load(name)
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1_000, name


def checkpoint(folder: Path, **config: Any) -> str:
    """A whole checkpoint as far as its files' names go."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / "student" / name, folder)
    return str(folder)


def test_the_files_of_a_checkpoint_that_lies_here_are_looked_at(tmp_path):
    encoder = checkpoint(tmp_path / "e", architectures=["BertForSequenceClassification"], max_position_embeddings=512)
    causal = checkpoint(tmp_path / "c", architectures=["Qwen3ForCausalLM"], max_position_embeddings=2048)
    masked = checkpoint(tmp_path / "m", architectures=["BertForMaskedLM"])
    other = checkpoint(tmp_path / "o", architectures=["ViTModel"])
    no_json = checkpoint(tmp_path / "n")
    (tmp_path / "n" / "config.json").write_text("{")
    for settings, said in (
        ((f"phase1.checkpoint={other}",), "a ViTModel cannot be the student"),
        ((f"phase1.checkpoint={encoder}", "phase1.max_length=513"), "512 positions; set phase1.max_length"),
        ((f"phase1.checkpoint={encoder}", "phase2.max_length=513"), "512 positions; set phase2.max_length"),
        ((f"phase1.checkpoint={causal}", "phase1.truncation=reference"), "a student of the kind causal"),
        ((f"phase1.checkpoint={no_json}",), "config.json: not JSON"),
        ((f"teacher.checkpoint={no_json}",), "config.json: not JSON"),
        ((f"teacher.checkpoint={masked}",), "a BertForMaskedLM is no reranker"),
        ((f"teacher.checkpoint={encoder}", "teacher.scoring.max_length=513"), "has 512 positions"),
        ((f"teacher.checkpoint={causal}", "teacher.scoring.max_length=4096"), "has 2048 positions"),
        ((f"teacher.checkpoint={causal}", "teacher.scoring.dtype=int8"), "not for a teacher of the kind causal"),
        ((f"teacher.checkpoint={encoder}", "teacher.scoring.kind=monot5"), "is of the kind encoder"),
    ):
        assert said in refused(*settings)
    assert load(f"teacher.checkpoint={encoder}").teacher.scoring.max_length == 512


def test_label_tokens_are_looked_for_in_the_students_own_vocabulary(tmp_path):
    student = tmp_path / "student"
    shutil.copytree(DEMO / "student", student)
    assert load(f"phase1.checkpoint={student}")
    assert "the vocabulary has no token" in refused(f"phase1.checkpoint={student}", "phase1.true_token=▁maybe")
    assert load("phase1.checkpoint=google-t5/t5-small", "phase1.true_token=▁maybe"), "the hub is not asked here"
    tokenizer = json.loads((student / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({"content": "▁maybe"})
    (student / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load(f"phase1.checkpoint={student}", "phase1.true_token=▁maybe", "phase2.true_token=▁maybe")
    (student / "tokenizer.json").write_text("{")
    assert "tokenizer.json is no JSON" in refused(f"phase1.checkpoint={student}")
