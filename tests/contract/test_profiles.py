"""Profiles validate, differ only in values, and refuse what they do not know."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from inranker_flow import profiles
from inranker_flow.commands.run import main as run_main
from inranker_flow.config.parsing import parse, without_defaults
from inranker_flow.config.sections import CorpusConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers.checkpoints import DEMO
from inranker_flow.settings.keys import keys
from inranker_flow.settings.pin import pin
from inranker_flow.settings.profile import default_name, overrides, parse_overrides, resolve, split
from pipelines import submission
from pipelines.compile import main as compile_main
from tests.refusals import refuses

NAMES = sorted(path.stem for path in profiles.PROFILES.glob("*.yaml"))


def test_the_promised_profiles_are_there():
    assert {"demo", "smoke", "small", "encoder", "paper"} <= set(NAMES)


@pytest.mark.parametrize(("pipeline", "name"), [*(("inranker", name) for name in NAMES), ("retrain", "demo")])
def test_make_compile_writes_exactly_the_pipelines_arguments(tmp_path, capsys, monkeypatch, pipeline, name):
    from kfp import components

    monkeypatch.delenv("INRANKER_REGISTRY", raising=False)
    settings = ["--set", "corpora.uri=s3://b/c"] if pipeline == "retrain" else []
    assert compile_main([pipeline, "--profile", name, "--out", str(tmp_path), *settings]) == 0
    assert "warning: REGISTRY is not set" in capsys.readouterr().err
    written = json.loads((tmp_path / f"{pipeline}.{name}.json").read_text())
    loaded = components.load_component_from_file(str(tmp_path / f"{pipeline}.yaml"))
    inputs = loaded.component_spec.inputs
    assert set(written) == set(inputs)
    # Kubeflow's form sorts them by name.
    assert [name for name in sorted(inputs) if name != "run_key"] == [*sorted(submission.FIELDS), "values", "work_key"]
    assert all(each.optional for each in inputs.values())
    assert inputs["values"].default == written["values"], "pressing Start runs the profile"
    # The component, called so, takes them; that it runs is `make run`.
    with pytest.raises(TypeError, match="surprise"):
        loaded(**written, surprise=1)


def test_the_form_gives_the_values_and_keys_that_make_submit_gives():
    written = profiles.load("demo").arguments()
    typed = {"source": "demo:source/3", "targets": "demo:target/4, demo:target/5", "generator": "demo:generator"}
    settings = "phase1.max_steps=7 evaluation.measures=[nDCG@10, RR@10] source.labels=inranker-msmarco:hf://a/b/c.tsv"
    form = resolve(written, settings, typed)
    made = profiles.load("demo", overrides(split(settings), typed))
    assert form.as_data() == made.as_data() and form.source.labels
    assert keys("inranker", form, "code") == keys("inranker", made, "code") != keys("inranker", form, "other")
    untouched = resolve(written, "", {})
    assert keys("inranker", untouched, "code") == keys("inranker", profiles.load("demo"), "code")


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        ("seed=3", {}, "seed: settled when the pipeline was compiled"),
        ("cluster.gpus=3", {}, "cluster.gpus: settled when the pipeline was compiled"),
        ("phase1.steps=3", {}, "phase1.steps: unknown key"),
        ("phase1.max_steps", {}, "SET: phase1.max_steps is not of the form section.key=value"),
        ("", {"targets": " , "}, "TARGETS: ' , ' names no collection"),
        ("", {"source": "demo:nothing"}, "source.uri: demo:nothing"),
        ("teacher.checkpoint=a/b", {"teacher": "c/d"}, "TEACHER and SET=teacher.checkpoint differ"),
        ("phase2.checkpoint=x", {}, "phase2.checkpoint must stay empty"),
    ],
)
def test_what_is_typed_wrongly_into_the_form_is_one_line(settings, fields, message):
    with pytest.raises(UserError) as refused:
        resolve(profiles.load("demo").arguments(), settings, fields)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_profile_can_be_pinned_without_asking_anybody(name):
    """Hub and ir_datasets references keep their names; only folders, files and s3:// have a content to be pinned."""
    loaded = profiles.load(name)
    pinned = pin(loaded)
    assert (pinned.source.uri, pinned.source.labels) == (loaded.source.uri, loaded.source.labels)
    assert pinned.teacher.checkpoint == loaded.teacher.checkpoint


def test_a_teachers_own_prompt_is_pinned_as_its_text(tmp_path):
    """A pod has no such file, and the cache would not see that it changed."""
    path = tmp_path / "prompt.txt"
    path.write_text("Q: {query}\nD: {document}\n{answer}\n")
    loaded = profiles.load("demo", parse_overrides([f"teacher.scoring.prompt={path}"]))
    pinned = pin(loaded)
    assert pinned.teacher.scoring.prompt == path.read_text()
    assert pin(pinned) == pinned
    assert pin(profiles.load("demo")).teacher.scoring.prompt == ""
    path.write_text("Q: {query}\n{answer}\n")
    for wrong, message in (
        (path, "the template needs {query}, {document} and {answer}"),
        (tmp_path / "none", "no readable template file"),
    ):
        with pytest.raises(UserError, match=rf"scoring\.prompt: {str(wrong)[:40]}.*: {message}"):
            pin(profiles.load("demo", parse_overrides([f"teacher.scoring.prompt={wrong}"])))


def test_a_prompt_of_ones_own_is_pinned_as_its_text(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("---\nchat: true\n---\nAsk about {document}\n")
    pinned = pin(profiles.load("demo", parse_overrides([f"generation.prompt={path}"])))
    assert pinned.generation.prompt == path.read_text() and pin(pinned) == pinned
    assert pin(profiles.load("paper")).generation.prompt == "inpars-v1"
    for wrong, message in (
        (tmp_path / "none", "no readable template file"),
        ("a\nb", "the template has no {document}"),
    ):
        with pytest.raises(UserError, match=message):
            pin(profiles.load("demo", {"generation.prompt": str(wrong)}))


def test_what_a_server_serves_is_a_name_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "writer").mkdir()
    server = {"generation.backend": "openai", "generation.endpoint": "http://host:8000/v1"}
    loaded = profiles.load("demo", {**server, "generation.checkpoint": "writer"})
    assert pin(loaded).generation.checkpoint == "writer"
    with refuses("checkpoint-incomplete"):
        pin(profiles.load("demo", {"generation.checkpoint": "writer"}))
    there = profiles.load("demo", {**server, "generation.tokenizer": "writer"})
    (tmp_path / "writer" / "tokenizer.json").write_text("{}")
    assert pin(there).generation.tokenizer == str(tmp_path / "writer")


def test_every_teacher_is_pinned_and_one_behind_a_server_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO / "student", tmp_path / "mine")
    asked = {"backend": "server", "server": {"endpoint": "http://host:8000"}}
    also = [{"checkpoint": "mine"}, {"checkpoint": "BAAI/bge-reranker-v2-m3", **asked}]
    pinned = pin(profiles.load("demo", {"teacher.also": also, "teacher.revision": "r1"})).teacher
    assert (pinned.checkpoint, pinned.revision) == ("demo:teacher", "r1")
    assert pinned.also[0].checkpoint == str(tmp_path / "mine") and len(pinned.also[0].revision) == 64
    assert (pinned.also[1].checkpoint, pinned.also[1].revision) == ("BAAI/bge-reranker-v2-m3", "")


def test_paper_has_the_papers_values():
    paper = profiles.load("paper")
    assert paper.teacher.checkpoint == "castorini/monot5-3b-msmarco-10k"
    for phase in (paper.phase1, paper.phase2):
        assert (phase.learning_rate, phase.warmup_steps, phase.batch_size) == (7e-5, 20_000, 32)
        assert (phase.max_length, phase.epochs, phase.loss, phase.weight_decay) == (512, 1, "mse", 0.0)
    assert (paper.phase1.centre, paper.phase2.centre) == (False, True)
    assert (paper.retrieval.depth, paper.retrieval.negatives) == (1000, 9)
    assert (paper.generation.documents, paper.generation.backend) == (100_000, "vllm")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("phase1.learning_rat=1", "phase1.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("phase9.x=1", "unknown section 'phase9'"),
        ("phase1.max_steps=abc", "phase1.max_steps: expected int, got 'abc'"),
        ("phase1.max_steps=1.5", "phase1.max_steps: expected int, got 1.5"),
        ("phase1.loss=hinge", "phase1.loss: 'hinge' is none of mse, margin_mse, kl"),
        ("evaluation.teacher=1", "evaluation.teacher: expected bool"),
        ("evaluation.scoring.max_len=1", "evaluation.scoring.max_len: unknown key"),
        ("phase2.checkpoint=x", "phase2.checkpoint must stay empty"),
        ("promotion.measure=P@5", "promotion.measure 'P@5' is not among evaluation.measures"),
        ("evaluation.measures=[foo@10]", "foo@10"),
        ("cluster.gpus=9", "cluster.gpus 9: one node of the pool has 8"),
        ("cluster.workers=0", "cluster.workers: 0 is below 1"),
        ("cluster.nodes=65", "cluster.nodes: 65 is above 64"),
        ("cluster.gpu_pool=[a]", "cluster.gpu_pool: expected names with values"),
        ("cluster.gpu_pool={a: 1}", "cluster.gpu_pool.a: expected str, got 1"),
        (
            "cluster.gpu_tolerations=[{key: a, effect: Never}]",
            "cluster.gpu_tolerations[0].effect: 'Never' is not one of",
        ),
        ("cluster.resources.label.cpu=1", "cluster.resources: 'label' is not one of 'default', 'preflight'"),
        ("cluster.resources.default.cpus=1", "cluster.resources.default.cpus: unknown key; did you mean 'cpu'?"),
        (
            "cluster.resources.default.memory=64GB",
            "cluster.resources.default.memory: '64GB' is no amount of memory (512Mi, 64Gi)",
        ),
        ("cluster.resources.default.memory=4", "cluster.resources.default.memory: expected str, got 4"),
        ("cluster.resources.evaluate.cpu=0m", "cluster.resources.evaluate.cpu: '0m' is no number of CPUs"),
        ("cluster.resources.evaluate.cpu=0", "cluster.resources.evaluate.cpu: '0' is no number of CPUs (2, 0.5, 500m)"),
        ("cluster.resources.evaluate.cpu=true", "cluster.resources.evaluate.cpu: expected str, got True"),
        ("cluster.resources.evaluate=8", "cluster.resources.evaluate: expected a section with keys, got 8"),
        ("targets=[]", "section 'targets' is missing or empty"),
        ("targets=[a/x, b/x]", "two collections are named 'x'"),
        ("source={name: a b, uri: x}", "may hold only letters"),
        ("nonsense", "is not of the form section.key=value"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(setting, message):
    with pytest.raises(UserError) as caught:
        profiles.load("demo", parse_overrides([setting]))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_in_processes_says_first_that_vllm_is_not_here(tmp_path, capsys):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    assert run_main(["inranker", "--profile", "small", "--run-dir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("FAILED: generation.backend: vllm is not installed here") and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(UserError, match=r"PROFILE=nope: no such profile .* demo, encoder, paper, small, smoke"):
        profiles.load("nope")


def test_seed_reaches_every_section_unless_it_says_otherwise():
    loaded = profiles.load("demo", {"seed": 9, "phase2.seed": 4})
    assert loaded.source.uri == "demo:source/9"
    assert (loaded.retrieval.seed, loaded.generation.seed, loaded.phase1.seed, loaded.phase2.seed) == (9, 9, 9, 4)


def test_a_default_is_no_argument_and_comes_back_where_a_stage_reads_it():
    loaded = profiles.load("paper")
    arguments = loaded.arguments()
    assert not set(arguments) - set(loaded.as_data()) and "cluster" not in arguments
    assert arguments["retrieval"] == {"seed": 42}, "depth, negatives and test_depth are the defaults"
    assert arguments["targets"][0] == {"name": "trec-covid", "uri": "ir_datasets:beir/trec-covid"}
    sections = {name: getattr(loaded, name) for name in arguments if name != "targets"}
    assert {name: parse(type(section), arguments[name], name) for name, section in sections.items()} == sections
    assert tuple(parse(CorpusConfig, each, "targets") for each in arguments["targets"]) == loaded.targets
    given = parse(TeacherConfig, {"checkpoint": "x", "scoring": {"dtype": "bfloat16"}}, "teacher")
    assert without_defaults(given) == {"checkpoint": "x", "scoring": {"dtype": "bfloat16"}}


def test_names_come_from_where_the_data_is():
    names = {
        "../shared/data/collections/vaswani/": "vaswani",
        "ir_datasets:beir/scifact/test": "scifact",
        "s3://bucket/corpora/fiqa": "fiqa",
        "data/passages.parquet": "passages",
        "inranker-beir:x/inpars_beir_dataset.jsonl": "inpars_beir_dataset",
    }
    assert {uri: default_name(uri) for uri in names} == names


def test_compile_command_refuses_in_one_line(tmp_path, capsys):
    assert compile_main(["nope", "--out", str(tmp_path)]) == 2
    assert "PIPELINE=nope: no such pipeline; there is: inranker" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
