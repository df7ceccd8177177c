"""The images as they are, and the same compiled pipeline in them: S3, MLflow on PostgreSQL, uid 1000, no network but
loopback. Run by `make integration`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.parsing import as_dict
from inranker_flow.store.sharing import HELPS
from pipelines.images import BUDGETS, NAMES, reference
from pipelines.placement import PLACEMENT, UID, content_tag
from tests import models
from tests.processes import MAKE_RUN
from tests.servers import free_ports, running
from tests.stack import Stack, docker, lacks, let_pass
from tests.unit.test_distillation import CONFIG, training_set

pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]

ROOT = Path(__file__).parents[2]
SEED = "11"
#: Module that holds each stage.
MODULES = {**{stage: stage for stage in PLACEMENT}, **HELPS, "distill_phase1": "distill", "distill_phase2": "distill"}


def in_image(name: str, script: str) -> subprocess.CompletedProcess[str]:
    """A Python script as a pod would run it: nobody's user, nothing writable but /tmp."""
    alone = ["--rm", "--network=none", "--read-only", "--tmpfs=/tmp:mode=1777", f"--user={UID}:{UID}", "--cap-drop=ALL"]
    return docker("run", *alone, reference(name), "python3", "-c", script, check=False)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_what_kfp_and_a_strict_cluster_take(images, name):
    (found,) = json.loads(docker("image", "inspect", reference(name)).stdout)
    config = found["Config"]
    assert images[name] <= BUDGETS[name][0], "the CPU build"
    assert config["User"] == f"{UID}:{UID}" and not config["Entrypoint"]
    assert config["Labels"]["org.opencontainers.image.version"] == content_tag()
    assert {"title", "description", "licenses"} <= {key.rpartition(".")[2] for key in config["Labels"]}
    assert f"INRANKER_CODE_VERSION={content_tag()}" in config["Env"]


@pytest.mark.parametrize("stage", PLACEMENT)
def test_every_stage_imports_in_its_image(images, stage):
    """With KFP's executor beside it, and, in the base image, without torch."""
    name = PLACEMENT[stage].image
    script = f"""
import importlib.util, os, subprocess, sys
os.environ['_KFP_RUNTIME'] = 'true'
import kfp.dsl.executor_main, inranker_flow.execution.run_stage, inranker_flow.model_registry.registry, mlflow.pyfunc
from inranker_flow.stages.{MODULES[stage]} import {"distill" if "distill" in stage else stage}
assert (importlib.util.find_spec('torch') is None) == {name == "base"}
open('/tmp/written', 'w').close()
print(os.getuid(), os.path.expanduser('~'))
"""
    done = in_image(name, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(UID), "/tmp"]


def test_the_base_image_runs_its_libraries_for_real(images):
    """What was left out of the image for its size is not missed: S3's client, BM25, Parquet, ir_datasets, the pyfunc."""
    script = """
import boto3, bm25s, ir_datasets, mlflow, pandas, pyarrow as pa, pyarrow.parquet, pyarrow.compute, Stemmer, lz4.frame, lxml.etree
boto3.client('s3', region_name='us-east-1', endpoint_url='http://127.0.0.1:1'); boto3.client('sts', region_name='us-east-1')
table = pa.table({'a': [3, 1, 2]})
pyarrow.parquet.write_table(table, '/tmp/x.parquet', compression='zstd')
assert pyarrow.parquet.read_table('/tmp/x.parquet').sort_by('a')['a'].to_pylist() == [1, 2, 3]
index = bm25s.BM25(); index.index(bm25s.tokenize(['one two', 'two three'], show_progress=False), show_progress=False)
assert 'beir/scifact/test' in ir_datasets.registry._registered
assert Stemmer.Stemmer('english').stemWord('running') == 'run'
print('ok')
"""
    done = in_image("base", script)
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stderr


def run_pipeline(folder: Path, *options: str) -> list[str | Path]:
    return [
        *MAKE_RUN,
        "inranker",
        "--run-dir",
        folder,
        "--seed",
        SEED,
        *options,
    ]


def measures(folder: Path) -> dict[tuple[str, ...], float]:
    """(dataset, system, measure, query) -> value of the run in ``folder``."""
    (evaluation,) = (folder / "artifacts").rglob("*/evaluation")
    table = tables.read(tables.MEASURES, evaluation).to_pylist()
    return {(row["dataset"], row["system"], row["measure"], row["query_id"]): row["value"] for row in table}


@pytest.fixture(scope="module")
def contained(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo through the images; every artifact goes through S3."""
    folder = tmp_path_factory.mktemp("contained")
    let_pass(folder)
    store = {"INRANKER_ARTIFACTS": "s3://inranker/artifacts", "INRANKER_STORE": "s3://inranker/store"}
    stack.environment.update(store)
    done = stack.run(*run_pipeline(folder, "--runner", "docker"), cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def test_the_whole_pipeline_runs_in_the_images(contained):
    _, out = contained
    assert "PROMOTE inranker version 1: mean nDCG@10 gain over BM25" in out
    assert "[preflight] S3: ok (s3://inranker/store: put, get, delete and conditional put work)" in out
    for stage in PLACEMENT.keys() - {"discover", *HELPS}:  # of `retrain`, and of several pods at one collection
        assert any(line.startswith(stage) and "cached" not in line for line in out.splitlines()), stage


def test_containers_give_the_measures_of_the_process_runner(contained, stack, tmp_path):
    """The same seed, the same compiled file: the champion's measures differ by less than 1e-6."""
    folder, _ = contained
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "INRANKER_", "AWS_"))}
    done = subprocess.run(run_pipeline(tmp_path), cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    fetched = tmp_path / "fetched"
    pointer = next((folder / "artifacts").rglob("*/evaluation/moved-to.txt")).read_text().strip()
    stack.python(
        "from inranker_flow.storage import uris; import shutil; "
        f"shutil.copytree(uris.local_copy({pointer!r}), {str(fetched / 'artifacts' / 'x' / 'evaluation')!r})"
    )
    here, there = measures(tmp_path), measures(fetched)
    assert here.keys() == there.keys() and len(here) > 1000
    assert max(abs(here[key] - there[key]) for key in here) < 1e-6


def test_every_artifact_went_through_s3_and_left_the_shared_folder(contained, stack):
    folder, _ = contained
    left = [path for path in (folder / "artifacts").rglob("*.parquet") if "scratch" not in path.parts]
    left += (folder / "artifacts").rglob("*.safetensors")
    assert not left
    script = "from inranker_flow.storage import uris; print(*[each.uri for each in uris.list_files('s3://inranker')])"
    stored = stack.python(script).split()
    for name, least in (
        ("labels.parquet", 2),
        ("corpus.parquet", 2),
        ("measures.parquet", 1),
        ("model.safetensors", 3),
    ):
        assert len([uri for uri in stored if uri.endswith(f"/{name}")]) >= least, name
    kept = {uri.split("/")[4] for uri in stored if uri.startswith("s3://inranker/store/")}
    assert kept == {"content", "labels", "pairs", "queries", "stages"}, (
        "what is kept by content; preflight takes its object away again"
    )
    weights = [uri for uri in stored if uri.startswith("s3://inranker/mlflow/") and uri.endswith("model.safetensors")]
    assert weights, "weights go from the stage to S3, not through MLflow's server"


def test_the_champion_is_in_the_registry_and_loads(contained, stack):
    script = """
import mlflow, pandas
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias('inranker', 'champion')
assert version.tags['inranker.verdict'] == 'PROMOTE', version.tags
runs = client.search_runs([client.get_experiment_by_name('inranker').experiment_id], max_results=100)
assert {run.info.status for run in runs} == {'FINISHED'}, [(run.info.run_name, run.info.status) for run in runs]
parents = [run for run in runs if 'mlflow.parentRunId' not in run.data.tags]
assert len(parents) == 1
model = mlflow.pyfunc.load_model('models:/inranker@champion')
scores = model.predict(pandas.DataFrame([{'query': 'a', 'passages': ['one', 'two', 'three']}]))
print(len(scores[0]))
"""
    assert stack.python(script).split()[-1] == "3"


def test_a_second_run_starts_no_container_for_what_is_done(contained, stack):
    folder, _ = contained
    done = stack.run(*run_pipeline(folder, "--runner", "docker"), cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = dict(
        line.split()[:2] for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in PLACEMENT
    )
    assert {stage for stage, seconds in table.items() if seconds == "cached"} == {
        stage for stage, row in PLACEMENT.items() if row.cache and stage not in HELPS
    }
    assert "PROMOTE inranker version 1" in done.stdout


def test_a_stage_that_fails_in_its_container_ends_the_run(stack, tmp_path):
    tmp_path.chmod(0o777)
    let_pass(tmp_path)
    options = ["--profile", "smoke", "--runner", "docker", "--set", "teacher.scoring.true_token=nonsense"]
    done = stack.run(*run_pipeline(tmp_path, *options), cwd=ROOT)
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("FAILED: ")]
    assert len(failed) == 1 and "teacher_label" in failed[0] and "nonsense" in failed[0]
    assert "[notify] FAILED" in done.stdout, "the exit handler tells it"


def test_containers_see_loopback_and_nothing_else(stack):
    if not stack.inside:
        pytest.skip("only root can give containers a network of loopback alone")
    done = docker("run", "--rm", f"--network={stack.network}", reference("base"), "cat", "/proc/net/dev")
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]] == ["lo"]


@pytest.fixture(scope="module")
def image_registry(images, tmp_path_factory):
    """An image registry on loopback; yields its address."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if not program:
        lacks("an image registry: `docker-registry` of Debian")
    folder = tmp_path_factory.mktemp("registry")
    (port,) = free_ports(1)
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with running([program, "serve", folder / "config.yml"], folder / "log", f"http://127.0.0.1:{port}/v2/"):
        yield f"127.0.0.1:{port}"


def test_push_records_the_digests_that_the_compiled_pipeline_then_names(image_registry, tmp_path):
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns(".git", ".venv", ".run", "build", "__pycache__", "images.lock")
    shutil.copytree(ROOT, project, ignore=ignored)
    name = f"{image_registry}/team/inranker-flow-base"
    docker("tag", reference("base"), f"{name}:{content_tag()}")
    env = {**os.environ, "INRANKER_REGISTRY": f"{image_registry}/team", "PYTHONPATH": f"{project / 'src'}:{project}"}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *arguments], cwd=project, env=env, capture_output=True, text=True)

    pushed = command("inranker_flow", "push", "--only", "base")
    assert pushed.returncode == 0, pushed.stderr
    lock = json.loads((project / "images" / "images.lock").read_text())["digests"]
    digest = lock[f"{name}:{content_tag()}"]
    assert digest.startswith("sha256:") and f"{name}@{digest}" in pushed.stdout
    docker("pull", "--quiet", f"{name}@{digest}")
    assert command("inranker_flow", "compile", "inranker", "--out", "out").returncode == 0
    compiled = (project / "out" / "inranker.yaml").read_text()
    assert f"image: {name}@{digest}" in compiled and f"{name}:{content_tag()}" not in compiled
    assert f"inranker-flow-train:{content_tag()}" in compiled, "what was not pushed keeps its tag"


def test_pushing_nowhere_is_refused(images):
    env = {**os.environ, "INRANKER_REGISTRY": ""}
    done = subprocess.run(
        [sys.executable, "-m", "inranker_flow", "push"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and "REGISTRY is not set" in done.stderr


#: `distill_phase1` as its pod runs it: settings, labels/ folder. What a machine that is lost does not come to is left out.
TRAIN = """
import json, os, sys, time
import torch
from types import SimpleNamespace
from inranker_flow.storage.local import digest_file
from inranker_flow.distillation.checkpoints import Checkpoint
from inranker_flow.execution.run_stage import run_stage
from inranker_flow.stages.distill import distill

torch.set_num_threads(1)
write, lost_at = Checkpoint.write, int(os.environ["LOST_AT"])

def written(self, content):
    write(self, content)
    self._waiting.result()
    if content["step"] == lost_at:
        print("NOW", flush=True)
        time.sleep(3600)

Checkpoint.write = written
artifact = lambda path: SimpleNamespace(path=path, uri=path, metadata={})
run_stage(
    distill, name="distill_phase1", configs={"config": json.loads(sys.argv[1])}, tracked=False,
    inputs={"training_sets": [artifact("/inputs/labels")], "start": None},
    outputs={"model": artifact("/tmp/out/model")},
)
print("WEIGHTS", digest_file("/tmp/out/model/model.safetensors"))
"""


def test_a_training_goes_on_in_the_next_container_when_its_own_is_lost(stack, tmp_path):
    """The container is killed, and with it go its folder and its scratch; the next one has the store alone."""
    let_pass(tmp_path)
    labels = training_set(tmp_path / "labels")
    write_manifest(labels, dataset="toy", stage="teacher_label")
    start = shutil.copytree(models.t5(seed=1), tmp_path / "start")
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode | 0o055 if path.is_dir() else 0o644)
    settings = replace(CONFIG, checkpoint="/inputs/start", dropout=0.1, max_steps=75, evaluate_every=15, save_every=10)

    def started(name: str, prefix: str, lost_at: int) -> list[str]:
        known = {key: value for key, value in stack.environment.items() if key.startswith("AWS_")}
        known |= {"INRANKER_STORE": f"s3://inranker/{prefix}", "LOST_AT": str(lost_at)}
        inputs = [f"--volume={labels}:/inputs/labels:ro", f"--volume={start}:/inputs/start:ro"]
        return [
            "run", f"--name={name}", f"--network={stack.network}", "--read-only", "--tmpfs=/tmp:mode=1777",
            f"--user={UID}:{UID}", *inputs, *(f"--env={key}={value}" for key, value in known.items()),
            reference("train"), "python3", "-c", TRAIN, json.dumps(as_dict(settings)),
        ]  # fmt: skip

    name = f"inranker-lost-{secrets.token_hex(4)}"
    with subprocess.Popen(["docker", *started(name, "lost", 30)], stdout=subprocess.PIPE, text=True) as lost:
        said = []
        assert lost.stdout
        for line in lost.stdout:
            said.append(line)
            if line == "NOW\n":
                docker("rm", "--force", name)
    assert said and said[-1] == "NOW\n" and lost.returncode == 137, said
    outputs = {}
    for prefix in ("lost", "undisturbed"):
        done = docker(*started(f"{name}-{prefix}", prefix, 0), check=False)
        docker("rm", f"{name}-{prefix}")
        assert done.returncode == 0, done.stdout + done.stderr
        outputs[prefix] = done.stdout
    assert "checkpoint after step 30 fetched from s3://inranker/lost/unfinished/distill/" in outputs["lost"]
    assert "continuing after step 30 of 75" in outputs["lost"] and "continuing" not in outputs["undisturbed"]
    weights = {prefix: out.rpartition("WEIGHTS ")[2] for prefix, out in outputs.items()}
    assert weights["lost"] == weights["undisturbed"] and len(weights["lost"].strip()) == 64
    left = "from inranker_flow.storage import uris; print(len(uris.list_files('s3://inranker/lost/unfinished')))"
    assert stack.python(left).split() == ["0"], "the stage is done"


#: `notify` as its pod runs it, beside an API that answers what KFP answered.
NOTIFY = """
import http.server, os, threading

class Recorded(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["RECORDED"].encode())

server = http.server.HTTPServer(("127.0.0.1", 0), Recorded)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["KF_PIPELINES_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
from inranker_flow.stages.notify import notify
from inranker_flow.execution.run_stage import run_stage
values = {"state": os.environ["WORD"], "error": None, "run_id": os.environ["INRANKER_KFP_RUN_ID"], "run_name": "recorded"}
print(run_stage(notify, configs={}, tracked=False, **values).state)
"""


@pytest.mark.parametrize(
    ("name", "word", "state", "end"),
    [
        ("run-succeeded-from-cache", "RUNNING", "SUCCEEDED", "FINISHED"),
        ("run-frozen-while-notify-runs", "COMPLETE", "SUCCEEDED", "FINISHED"),
        ("run-failed-while-notify-runs", "FAILED", "FAILED", "FAILED"),
    ],
)
def test_notify_in_its_container_judges_what_kfp_answered_and_mlflows_parent_gets_its_end(
    stack, name, word, state, end
):
    run_id = f"kfp-{name}"
    parent = stack.python(
        f"from inranker_flow.tracking.parents import open_parent; print(open_parent({run_id!r}, 'x'))"
    ).split()[-1]
    known = {
        "MLFLOW_TRACKING_URI": stack.environment["MLFLOW_TRACKING_URI"],
        "INRANKER_KFP_RUN_ID": run_id,
        "RECORDED": (ROOT / "tests" / "recorded" / f"{name}.json").read_text(),
        "WORD": word,
    }
    variables = [f"--env={key}={value}" for key, value in known.items()]
    alone = ["--rm", f"--network={stack.network}", "--read-only", "--tmpfs=/tmp:mode=1777", f"--user={UID}:{UID}"]
    done = docker("run", *alone, *variables, reference("base"), "python3", "-c", NOTIFY, check=False)
    assert done.returncode == 0 and done.stdout.split()[-1] == state, done.stdout + done.stderr
    script = f"import mlflow; print(mlflow.MlflowClient().get_run({parent!r}).info.status)"
    assert stack.python(script).split()[-1] == end
