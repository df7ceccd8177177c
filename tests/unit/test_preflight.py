"""The first stage: each check against a real server, and each failure with its remedy."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from components import preflight as component
from inranker_flow import profiles
from inranker_flow.config.sections import (
    CorpusConfig,
    DistillConfig,
    GenerateConfig,
    PromoteConfig,
    ScoringConfig,
    TeacherConfig,
)
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import UserError
from inranker_flow.model_registry import history
from inranker_flow.preflight import checks, stores
from inranker_flow.preflight.checkpoints import check_checkpoint, check_teacher
from inranker_flow.preflight.checks import Check, Skipped, markdown, run_checks
from inranker_flow.preflight.collections import check_collection
from inranker_flow.preflight.generator import check_generator
from inranker_flow.preflight.mlflow_server import check_mlflow
from inranker_flow.preflight.pool import Need, check_nodes, check_queue, check_queues
from inranker_flow.preflight.stores import check_disk, check_store
from inranker_flow.services.kubernetes import quantity
from inranker_flow.settings.keys import keys
from inranker_flow.stages.preflight import check_run
from inranker_flow.storage import s3_client, uris
from inranker_flow.tracking import connection
from inranker_flow.tracking.parents import close_parent
from inranker_flow.tracking.runs import stage_run
from tests import beir, models
from tests.databases import new_database
from tests.generation_server import GenerationServer
from tests.http_server import Answer, HttpServer
from tests.kubernetes_api import KubernetesApi, node
from tests.refusals import refuses
from tests.servers import free_ports, running

GPU = "nvidia.com/gpu"
POOL = {"pool": "gpu"}
TOLERATIONS = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
NEED = Need("evaluate", "8", "32Gi", "inranker-gpu", TOLERATIONS, GPU, 1, POOL)
BIG = {"cpu": "15900m", "memory": "64Gi", GPU: "4"}


# --- S3 and disk ------------------------------------------------------------------------------------------------------


def test_the_store_is_written_read_and_left_clean(s3, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", s3)
    assert check_store() == f"{s3}: put, get, delete and conditional put work"
    assert uris.list_files(s3) == []


@pytest.mark.parametrize("store", ["", "file:///srv/store", "/srv/store"])
def test_without_an_s3_prefix_there_is_nothing_to_check(monkeypatch, store):
    monkeypatch.setenv("INRANKER_STORE", store)
    with pytest.raises(Skipped, match=r"INRANKER_STORE is (not set|/srv|file)"):
        check_store()


def test_a_store_that_refuses_is_told_with_the_remedy(s3, monkeypatch):
    with pytest.raises(UserError, match=r"NoSuchBucket.*\(ListObjectsV2\); create the bucket or correct the address"):
        stores.readable("s3://nobodys-bucket/corpus")
    monkeypatch.setenv("INRANKER_STORE", s3)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    s3_client.client.cache_clear()
    with refuses("s3-refused", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "inranker-s3"):
        check_store()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3_client.client.cache_clear()
    with pytest.raises(UserError, match=r"no S3 server answers at http://127.0.0.1:1; check AWS_ENDPOINT_URL"):
        check_store()


def test_a_missing_right_is_named(s3, monkeypatch):
    """An S3 whose policy lets an account put and get, but neither list nor delete."""
    denied = Answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>")
    answers = {"PUT": Answer(200), "GET": Answer(200, b"other bytes"), "DELETE": denied}
    with HttpServer() as server:
        server.answer = lambda request: denied if "list-type" in request.path else answers[request.method]
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("INRANKER_STORE", s3)
        s3_client.client.cache_clear()
        with pytest.raises(
            UserError, match=r"AccessDenied.*\(DeleteObject\); grant s3:DeleteObject on it to the access"
        ):
            check_store()
        with pytest.raises(UserError, match=r"\(ListObjectsV2\); grant s3:ListBucket on it"):
            stores.readable(f"{s3}/corpus")
        answers["DELETE"] = Answer(204)
        with pytest.raises(
            UserError, match=r"S3 gave back other bytes than were put; check what answers at AWS_ENDPOINT"
        ):
            check_store()


def test_a_full_or_closed_disk_is_told(monkeypatch, tmp_path):
    assert f"{tmp_path}: " in _with_scratch(monkeypatch, tmp_path / "not" / "yet") and "GiB free" in check_disk()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda path: usage(10, 10, 2**29))
    with pytest.raises(UserError, match=r"0\.5 GiB free, at least 1 GiB is needed; make room, or set INRANKER_SCRATCH"):
        check_disk()
    monkeypatch.undo()
    monkeypatch.setenv("INRANKER_SCRATCH", "/proc/1")
    with pytest.raises(UserError, match=r"/proc/1: (this user may not write there; mount a volume|0\.0 GiB free)"):
        check_disk()


def _with_scratch(monkeypatch, path: Path) -> str:
    monkeypatch.setenv("INRANKER_SCRATCH", str(path))
    return check_disk()


# --- checkpoints and collections --------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    answers = {
        "/castorini/monot5/resolve/main/config.json": [Answer(200)],
        "/castorini/monot5/resolve/v2/config.json": [Answer(404, headers={"X-Error-Code": "RevisionNotFound"})],
        "/org/gated/resolve/main/config.json": [Answer(403, headers={"X-Error-Code": "GatedRepo"})],
        "/org/private/resolve/main/config.json": [Answer(401, headers={"X-Error-Code": "RepoNotFound"})],
        "/org/adapter/resolve/main/config.json": [Answer(404, headers={"X-Error-Code": "EntryNotFound"})],
        "/org/busy/resolve/main/config.json": [Answer(503)],
        "/datasets/unicamp/labels/resolve/main/a.tsv": [Answer(302, headers={"Location": "/cdn/a.tsv"})],
        "/cdn/a.tsv": [Answer(200, b"large")],
    }
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hub-token")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    with HttpServer(answers) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_checkpoint_on_the_hub_costs_one_request_for_a_head(hub):
    assert check_checkpoint("castorini/monot5") == f"castorini/monot5 at {hub.url}"
    (request,) = hub.requests
    assert request.method == "HEAD" and request.headers["Authorization"] == "Bearer hub-token"


@pytest.mark.parametrize(
    ("reference", "revision", "message"),
    [
        ("org/gated", "", "gated; accept its terms on the hub and set HF_TOKEN .*Secret inranker-hub"),
        ("org/private", "", "gated, private or not there; correct the name, or set HF_TOKEN"),
        ("org/none", "", "the hub knows no such repository or file .config.json.; correct the name"),
        ("org/adapter", "", "holds no config.json at revision main; give another one"),
        ("castorini/monot5", "v2", "has no revision v2; correct it"),
        ("org/busy", "", "the hub answered HTTP 503 .*; try again later, or give a copy under s3://"),
        ("demo:nobody", "", "no such demo model; there is demo:generator"),
        ("init:huge", "", "init:huge: no such size; there is tiny"),
        ("./nowhere", "", "no such checkpoint folder; give a folder with config.json, s3:// or a hub id"),
    ],
)
def test_a_checkpoint_that_cannot_be_had_is_told_with_the_remedy(hub, reference, revision, message):
    with pytest.raises(UserError, match=message):
        check_checkpoint(reference, revision)


@pytest.mark.parametrize("reference", ["demo:teacher", "init:tiny?seed=3", "init:mini?tokenizer=demo:student&seed=1"])
def test_checkpoints_that_the_package_makes_need_nobody(hub, reference):
    assert reference in check_checkpoint(reference) and not hub.requests


CONFIGS = {
    "encoder without a head": {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
    "T5 with a head": {"architectures": ["T5ForSequenceClassification"], "is_encoder_decoder": True},
    "monot5": {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
    "causal": {"architectures": ["Qwen3ForCausalLM"]},
    "cross-encoder": {"architectures": ["BertForSequenceClassification"]},
    "says nothing": {"model_type": "t5"},
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("place", ["folder", "hub", "s3"])
def test_a_teacher_that_is_no_reranker_is_refused_before_a_gpu_is_asked_for(hub, s3, tmp_path, kind, place):
    name = CONFIGS[kind].get("architectures", [""])[0]
    (tmp_path / "model").mkdir()
    models.stub_files(tmp_path / "model", CONFIGS[kind])
    hub.answers["/org/model/resolve/main/config.json"] = [Answer(200, json.dumps(CONFIGS[kind]).encode())]
    uris.upload(tmp_path / "model", f"{s3}/model")
    reference = {"folder": str(tmp_path / "model"), "hub": "org/model", "s3": f"{s3}/model"}[place]
    if name in ("BertForMaskedLM", "T5ForSequenceClassification"):
        with pytest.raises(UserError, match=f"{reference}: a {name} is no reranker that is understood here"):
            check_teacher(TeacherConfig(reference))
    else:
        assert reference in check_teacher(TeacherConfig(reference))
    # Who names the kind has looked for himself, and loading will tell.
    assert check_teacher(TeacherConfig(reference, scoring=ScoringConfig(kind="monot5")))


def test_a_token_does_not_follow_a_redirect_and_a_large_file_is_not_read(hub):
    corpus = CorpusConfig(uri="demo:source/1", name="x", labels="inranker-msmarco:hf://unicamp/labels/a.tsv")
    assert "datasets/unicamp/labels at" in check_collection(corpus)
    asked, redirected = hub.requests
    assert "Authorization" in asked.headers and "Authorization" not in redirected.headers


def test_without_the_hub_its_cache_is_enough(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"the hub at http://127\.0\.0\.1:9 does not answer .*or set HF_ENDPOINT, or give"
    ):
        check_checkpoint("castorini/monot5")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Skipped, match=r"HF_HUB_OFFLINE is set"):
        check_checkpoint("castorini/monot5")
    snapshot = tmp_path / "hub-cache" / "models--castorini--monot5" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert "in the cache" in check_checkpoint("castorini/monot5")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "in the cache" in check_checkpoint("castorini/monot5")
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with refuses("address-form", "HF_ENDPOINT"):
        check_checkpoint("castorini/monot5")


def test_what_lies_on_s3_is_read(s3, tmp_path):
    for name in ("model/config.json", "beir/corpus.jsonl", "empty/notes.odt", "tokenizer/tokenizer.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    models.stub_files(tmp_path / "model", {})
    uris.upload(tmp_path, s3)
    assert check_checkpoint(f"{s3}/model") == f"{s3}/model: readable"
    assert "readable" in check_checkpoint(f"init:tiny?tokenizer={s3}/tokenizer")
    assert check_collection(CorpusConfig(uri=f"{s3}/beir", name="x")) == f"{s3}/beir: readable"
    with refuses("checkpoint-incomplete", "config.json"):
        check_checkpoint(f"{s3}/beir")
    with refuses("not-found"):
        check_checkpoint(f"{s3}/nowhere")
    with refuses("collection-no-documents", "corpus.jsonl", "corpus.parquet"):
        check_collection(CorpusConfig(uri=f"{s3}/empty", name="x"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ir_datasets:beir/nfcorpsu", "ir_datasets knows no such id; did you mean beir/nfcorpus or"),
        ("demo:source/one", "the demo's collections are demo:source/SEED"),
        ("/no/such/folder", "no such file or folder here; give a folder in BEIR layout"),
        ("inranker-beir:/no/such.jsonl", "no such file here; give a file, s3:// or hf://"),
        ("inranker-beir:hf://owner/name", "addresses on the hub are hf://OWNER/DATASET/FILE"),
        (__file__, "not a collection; give a folder in BEIR layout"),
        (str(Path(__file__).parent), "holds neither corpus.jsonl"),
    ],
)
def test_a_collection_that_cannot_be_had_is_told_with_the_remedy(uri, message):
    with pytest.raises(UserError, match=message):
        check_collection(CorpusConfig(uri=uri, name="x"))


def test_collections_that_are_there_are_found(tmp_path):
    (tmp_path / "corpus.jsonl.gz").write_bytes(b"")
    assert check_collection(CorpusConfig(uri=str(tmp_path), name="x")).endswith(": there")
    assert "downloaded on first use" in check_collection(CorpusConfig(uri="ir_datasets:beir/scifact/test", name="x"))
    assert "made on the spot" in check_collection(CorpusConfig(uri="demo:target/3", name="x"))


def test_names_of_s3_that_no_disk_can_hold_are_told_before_a_run(s3, tmp_path):
    for key in ("a", "a/b.md"):
        (tmp_path / "text").write_text("x")
        uris.upload(tmp_path / "text", f"{s3}/c/{key}")
    with refuses("name-unusable", "'a/b.md'"):
        check_collection(CorpusConfig(f"{s3}/c", "x"))


RUN = b"q1 Q0 d1 1 2.0 x\n"
LABEL = "query_id\tdoc_id\tscore\n"


@pytest.mark.parametrize(
    ("name", "content", "code", "facts"),
    [
        ("log.csv", None, "not-found", ()),
        ("log.csv", b"", "collection-empty", ()),
        ("log.csv", b"when,what\n1,rain\n", "collection-column", ("query",)),
        ("log.jsonl", b'{"when": 1}\n', "log-empty", ()),
        ("log.txt", b"???\n", "log-empty", ()),
        ("log.xml", b"<a/>", "log-form", ()),
        ("soft.tsv", None, "not-found", ()),
        ("soft.tsv", b"a\tb\n1\t2\n", "collection-column", ("query",)),
        ("soft.tsv", LABEL.encode(), "labels-unusable", ("holds no soft label",)),
        ("soft.tsv", f"{LABEL}other-1\td1\t0.5\n".encode(), "labels-unusable", ("'other-1'", "like 'q1'")),
        ("a.trec", None, "not-found", ()),
        ("a.trec", b"", "run-incomplete", ("holds no row",)),
        ("a.trec", b"q1 0 d1 1\n", "run-incomplete", ("holds no row",)),
        ("a.trec", RUN.replace(b"q1", b"9"), "run-incomplete", ("'9'", "like 'q1'")),
        ("a.parquet", RUN, "collection-damaged", ()),
    ],
)
def test_what_a_collection_has_beside_it_is_looked_into(tmp_path, s3, name, content, code, facts):
    folder = beir.write(tmp_path / "in")
    if content is not None:
        (folder / name).write_bytes(content)
        uris.upload(folder / name, f"{s3}/{name}")
    for path in (f"{folder}/{name}", f"{s3}/{name}"):
        setting = (
            {"log": path}
            if "log" in name
            else {"labels": f"soft-labels:{path}"}
            if "soft" in name
            else {"runs": (path,)}
        )
        with refuses(code, path, *facts):
            check_collection(CorpusConfig(str(folder), "x", **setting))


def test_what_a_collection_has_beside_it_is_told(tmp_path):
    files = {"a.trec": RUN, "soft.tsv": f"{LABEL}q1\td1\t0.5\n".encode(), "log.csv": b"query,count\nrain,2\n",
        "large.trec": b"".join(RUN.replace(b"d1", b"x%d" % n).replace(b"q1", b"9") for n in range(80_000))}  # fmt: skip
    folder = beir.write(tmp_path / "in", files)
    corpus = CorpusConfig(str(folder), "x", labels=f"soft-labels:{folder}/soft.tsv", log=f"{folder}/log.csv",
        runs=("a.trec", "large.trec"))  # fmt: skip
    told = check_collection(corpus)
    assert all(f"{folder}/{name}: there" in told for name in files), (
        "of a large file the beginning says nothing of the rest"
    )


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return new_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


@pytest.fixture
def mlflow_at(monkeypatch):
    import mlflow

    def use(uri: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)

    yield use
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """A real tracking server that answers to the name localhost only."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    uri = new_database(folder / "mlflow.db")
    (port,) = free_ports(1)
    options = [
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", uri,
        "--artifacts-destination", str(folder / "artifacts"), "--allowed-hosts", f"localhost:{port}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "server", *options]
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its job workers are seven processes more
    with running(command, folder / "log", f"http://localhost:{port}/health", seconds=120, **alone):
        yield port


def test_mlflow_takes_a_scratch_model_and_keeps_nothing_of_it(database, mlflow_at):
    mlflow_at(database)
    assert "version and alias can be written" in check_mlflow()
    assert connection.client().search_registered_models() == []


def test_a_real_mlflow_server_is_checked_and_its_host_rule_explained(mlflow_server, mlflow_at):
    mlflow_at(f"http://localhost:{mlflow_server}")
    assert "version and alias can be written" in check_mlflow()
    assert connection.client().search_registered_models() == []
    mlflow_at(f"http://127.0.0.1:{mlflow_server}")
    with refuses("registry-refused", "allowed-hosts"):
        check_mlflow()


def test_an_mlflow_that_forbids_or_is_not_there_is_told_with_the_remedy(mlflow_at, monkeypatch):
    body = {"error_code": "PERMISSION_DENIED", "message": "Permission denied"}
    with HttpServer() as proxy:
        proxy.answer = lambda request: Answer(200 if request.path == "/health" else 403, body)
        mlflow_at(proxy.url)
        with refuses("registry-refused"):
            check_mlflow()
    mlflow_at("http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no MLflow server answers at http://127\.0\.0\.1:9 .*; start it"):
        check_mlflow()
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "r1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with refuses("registry-unset", "MLFLOW_TRACKING_URI", "inranker-settings"):
        check_mlflow()


# --- the cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def kubernetes(tmp_path, monkeypatch):
    """A cluster's API with TLS, as a pod sees it: address, token and CA where Kubernetes puts them."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    with KubernetesApi(token="pod-token", tls=True, folder=folder) as api:
        (folder / "token").write_text("pod-token\n")
        (folder / "ca.crt").write_text(api.ca)
        monkeypatch.setattr("inranker_flow.services.kubernetes.SERVICE_ACCOUNT", folder)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        (folder / "namespace").write_text("inranker\n")
        yield api


def local_queue(**spec: str) -> dict:
    metadata = {"name": "inranker-gpu", "namespace": "inranker"}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": metadata,
        "spec": {"clusterQueue": "gpus", **spec},
    }


def cluster_queue(gpus: str = "8", memory: str = "512Gi", borrow: str = "", **spec: str) -> dict:
    gpu = {"name": GPU, "nominalQuota": gpus, **({"borrowingLimit": borrow} if borrow else {})}
    resources = [{"name": "cpu", "nominalQuota": "128"}, {"name": "memory", "nominalQuota": memory}, gpu]
    flavors = [{"name": "gpu-nodes", "resources": resources}]
    groups = [{"coveredResources": ["cpu", "memory", GPU], "flavors": flavors}]
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": "gpus"},
        "spec": {"resourceGroups": groups, **spec},
    }


def test_outside_of_a_cluster_there_is_nothing_to_check(monkeypatch, tmp_path):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for check in (lambda: check_nodes(NEED), lambda: check_queue(NEED)):
        with pytest.raises(Skipped, match=r"not in a pod"):
            check()


def test_a_pool_with_room_is_found_among_other_nodes(kubernetes):
    kubernetes.add(node("cpu", {}, {"cpu": "64", "memory": "256Gi"}))
    kubernetes.add(node("small", POOL, {"cpu": "4", "memory": "64Gi", GPU: "1"}))
    kubernetes.add(node("big", POOL, BIG, f"{GPU}=present:NoSchedule"))
    assert check_nodes(NEED) == f"1 of 2 nodes labelled pool=gpu can take 1 {GPU}, 8 cpu, 32Gi memory"
    without = Need("evaluate", "8", "32Gi", "inranker-gpu")
    assert check_nodes(without).startswith("1 of 3 nodes labelled (any) can take 8 cpu, 32Gi memory")


@pytest.mark.parametrize(
    ("allocatable", "taints", "gpus", "told"),
    [
        (BIG, [], 8, f"1 x 4 {GPU}"),
        ({"cpu": "16", "memory": "64Gi"}, [], 1, f"1 x no {GPU}"),
        ({**BIG, "cpu": "7910m"}, [], 1, "1 x 7910m cpu"),
        ({**BIG, "memory": "33554431Ki"}, [], 1, "1 x 33554431Ki memory"),
        (BIG, ["team=other:NoSchedule"], 1, "1 x taint team=other:NoSchedule is not tolerated"),
        (BIG, [f"{GPU}:NoExecute"], 1, f"1 x taint {GPU}:NoExecute is not tolerated"),
    ],
)
def test_a_pool_without_room_is_told_with_the_reason(kubernetes, allocatable, taints, gpus, told):
    kubernetes.add(node("only", POOL, allocatable, *taints))
    with pytest.raises(UserError) as refused:
        check_nodes(dataclasses.replace(NEED, gpus=gpus))
    assert f"({told})" in str(refused.value) and "none of the 1 nodes labelled pool=gpu" in str(refused.value)
    remedy = "ask for less (cluster.resources.evaluate.cpu, .memory, cluster.gpus), add tolerations (cluster.gpu_tolerations)"
    assert remedy in str(refused.value)


def test_a_node_that_is_cordoned_or_asks_politely_counts(kubernetes):
    kubernetes.add(node("n", POOL, BIG, "node.kubernetes.io/unschedulable:NoSchedule", "slow:PreferNoSchedule"))
    assert check_nodes(NEED).startswith("1 of 1")


def test_a_pool_scaled_to_zero_and_a_closed_api_are_no_failure(kubernetes, monkeypatch, tmp_path):
    with pytest.raises(
        Skipped, match=r"no node has the labels pool=gpu now: fine where an autoscaler .* cluster.gpu_pool"
    ):
        check_nodes(NEED)
    kubernetes.forbid("nodes")
    with pytest.raises(Skipped, match=r"the service account may not read nodes \(HTTP 403\); grant list on nodes"):
        check_nodes(NEED)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(Skipped, match=r"the Kubernetes API cannot be read .Connection refused"):
        check_nodes(NEED)


def test_another_ca_is_not_trusted(kubernetes, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with KubernetesApi(tls=True, folder=other) as stranger:
        (tmp_path / "serviceaccount" / "ca.crt").write_text(stranger.ca)
    with pytest.raises(Skipped, match=r"the Kubernetes API cannot be read"):
        check_nodes(NEED)
    assert kubernetes.requests == [], "no token is sent to a server that nobody vouches for"


def test_the_queue_of_tasks_without_gpus_is_looked_at_too(kubernetes):
    kubernetes.add(local_queue())
    kubernetes.add(cluster_queue())
    both = dataclasses.replace(
        NEED, also=[{"stage": "retrieve", "cpu": "4", "memory": "32Gi", "queue": "inranker-cpu"}]
    )
    with refuses("queue-missing", "inranker-cpu"):
        check_queues(both)
    other = local_queue()
    other["metadata"]["name"] = "inranker-cpu"
    kubernetes.add(other)
    assert "; inranker-cpu -> gpus: its quota admits 4 cpu, 32Gi memory" in check_queues(both)
    assert check_queues(NEED) == check_queue(NEED)


@pytest.mark.parametrize("store", ["", "off", "/a/folder"])
def test_pods_that_share_work_need_a_store_that_they_all_see(store, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", store)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    line = r"and cluster.workers 4: pods share their work through an s3:// prefix; set INRANKER_STORE to one in"
    with pytest.raises(UserError, match=line):
        stores.check_store(4)
    with pytest.raises(Skipped):
        stores.check_store(1)


def test_a_queue_whose_quota_admits_the_task_is_found(kubernetes):
    kubernetes.add(local_queue())
    kubernetes.add(cluster_queue())
    expected = f"inranker-gpu -> gpus: its quota admits 1 {GPU}, 8 cpu, 32Gi memory"
    assert check_queue(NEED) == expected
    kubernetes.add(cluster_queue(gpus="0", borrow="2", cohortName="all"))
    assert check_queue(NEED) == expected
    kubernetes.add(cluster_queue(gpus="0", cohort="all"))
    assert check_queue(NEED) == expected, "without a limit it may borrow what the cohort has"


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([cluster_queue()], "namespace inranker has no LocalQueue inranker-gpu: apply the project's Kueue component"),
        ([local_queue()], "ClusterQueue gpus, which does not exist; create it"),
        (
            [local_queue(), cluster_queue("1")],
            "quota is 1 nvidia.com/gpu and evaluate asks for 2; raise the quota or ask for",
        ),
        (
            [local_queue(), cluster_queue("0", borrow="1", cohortName="x")],
            "quota is 0 nvidia.com/gpu and evaluate asks for 2",
        ),
        (
            [local_queue(), cluster_queue(memory="16Gi")],
            "quota is 16Gi memory and evaluate asks for 32Gi; .*cluster.resources.evaluate.cpu",
        ),
        (
            [local_queue(), {**cluster_queue(), "spec": {}}],
            "gpus has no quota for nvidia.com/gpu, so it admits no task",
        ),
        ([local_queue(stopPolicy="Hold"), cluster_queue()], "is held .stopPolicy Hold.; release it"),
        ([local_queue(), cluster_queue(stopPolicy="HoldAndDrain")], "ClusterQueue gpus is held"),
    ],
)
def test_a_queue_that_never_admits_the_task_is_told_with_the_remedy(kubernetes, objects, message):
    for each in objects:
        kubernetes.add(each)
    with pytest.raises(UserError, match=message):
        check_queue(dataclasses.replace(NEED, gpus=2))


def test_without_kueue_or_the_right_to_read_it_the_queue_is_skipped(kubernetes):
    with pytest.raises(Skipped, match=r"Kueue is not installed"):
        check_queue(NEED)
    kubernetes.add(local_queue())
    kubernetes.add(cluster_queue())
    kubernetes.forbid("clusterqueues")
    with pytest.raises(Skipped, match=r"may not read the ClusterQueue .*grant get on localqueues and clusterqueues"):
        check_queue(NEED)


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("500m", 0.5), ("32Gi", 32 * 2**30), ("1e3", 1000), ("2k", 2000), (4, 4)]
)
def test_kubernetes_quantities_are_numbers(text, value):
    assert quantity(text) == value


def test_what_is_no_quantity_is_refused():
    for text in ("", "many", "8 Gi", "8Xi"):
        with pytest.raises(ValueError, match=r"no Kubernetes quantity"):
            quantity(text)


# --- the generator ----------------------------------------------------------------------------------------------------


def test_a_served_generator_is_asked_for():
    with GenerationServer() as server:
        setting = GenerateConfig("writer", backend="openai", endpoint=server.url, prompt="instruct")
        assert check_generator(setting) == f"writer is served at {server.url}/v1"
        for changes, message in (
            ({"checkpoint": "other"}, r"serves writer and not other"),
            ({"endpoint": ""}, r"generation\.endpoint: missing"),
            ({"prompt": "none"}, r"generation\.prompt: none: no readable template file"),
        ):
            with pytest.raises(UserError, match=message):
                check_generator(dataclasses.replace(setting, **changes))
        assert not server.requests, "nothing is generated"
    with pytest.raises(UserError, match=r"nobody answers there, and so 2 times"):
        check_generator(setting)
    assert check_generator(GenerateConfig("demo:generator")) == "demo:generator: there"


# --- the stage --------------------------------------------------------------------------------------------------------


def run_preflight(report: Path, run_key: str = "key", **sections):
    run = dataclasses.replace(profiles.load("demo"), **sections)
    return check_run(run, NEED, run_key, report)


def test_everything_in_order_is_a_table_and_a_champion(s3, database, mlflow_at, kubernetes, monkeypatch, tmp_path):
    mlflow_at(database)
    monkeypatch.setenv("INRANKER_STORE", s3)
    kubernetes.add(node("big", POOL, BIG))
    kubernetes.add(local_queue())
    kubernetes.add(cluster_queue())
    client = connection.client()
    client.create_registered_model("served")
    for tags in ({"run_key": "first"}, {"run_key": "second", "inranker.against": "models:/served/1"}):
        version = client.create_model_version("served", "s3://bucket/model", tags=tags).version
    client.set_registered_model_alias("served", "champion", version)
    promotion = PromoteConfig(model_name="served")

    stats = run_preflight(tmp_path / "report.md", promotion=promotion)
    assert (stats.checks, stats.skipped, stats.champion, stats.start) == (10, 0, "models:/served/2", "")
    table = (tmp_path / "report.md").read_text()
    assert table.startswith("- **S3**: ok. ") and table.count("**: ok. ") == 10

    again = run_preflight(tmp_path / "report.md", promotion=promotion, run_key="second")
    assert again.champion == "models:/served/1", "work is measured against what served before it"
    onward = run_preflight(tmp_path / "report.md", promotion=promotion, phase2=DistillConfig(start="champion"))
    assert (onward.champion, onward.start) == ("models:/served/2", "models:/served/2")
    assert history.opponent("nobody", "key") == ""


def test_all_failures_are_told_in_one_line(hub, mlflow_at, kubernetes, monkeypatch, tmp_path):
    mlflow_at("http://127.0.0.1:9")
    monkeypatch.setenv("INRANKER_STORE", "s3://bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    s3_client.client.cache_clear()
    kubernetes.add(node("small", POOL, {"cpu": "2", "memory": "4Gi", GPU: "1"}))
    kubernetes.install("kueue.x-k8s.io/v1beta2", "LocalQueue")
    with pytest.raises(UserError) as refused:
        run_preflight(
            tmp_path / "report.md",
            targets=(CorpusConfig(uri="ir_datasets:none", name="a"), CorpusConfig(uri="ir_datasets:none", name="b")),
            teacher=TeacherConfig(checkpoint="org/gated"),
        )
    s3_client.client.cache_clear()
    line = str(refused.value)
    assert "\n" not in line
    for part in (
        "S3: s3://bucket/x/preflight/", "check AWS_ENDPOINT_URL and the network",
        "MLflow: MLFLOW_TRACKING_URI: no MLflow server answers", "teacher's checkpoint: org/gated: gated",
        "collection a, collection b: ir_datasets:none: ir_datasets knows no such id",
        "node pool: none of the 1 nodes", "queue: namespace inranker has no LocalQueue",
    ):  # fmt: skip
        assert part in line
    table = (tmp_path / "report.md").read_text().splitlines()
    assert [row.split("**: ")[1].partition(".")[0] for row in table] == ["FAILED"] * 7 + ["ok"] * 4


def test_on_a_cluster_the_parent_run_is_opened_once_and_stages_nest_under_it(
    database, mlflow_at, monkeypatch, tmp_path
):
    mlflow_at(database)
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "0a1b2c3d-run")
    run_preflight(tmp_path / "report.md")
    client = connection.client()
    (parent,) = client.search_runs([connection.experiment_id(client)], "tags.`inranker.kfp_run_id` = '0a1b2c3d-run'")
    assert (parent.info.run_name, parent.info.status) == ("inranker 0a1b2c3d", "RUNNING")
    with stage_run("retrieve", "inns") as child:
        assert child.parent_id == parent.info.run_id
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id

    close_parent("0a1b2c3d-run", "FAILED", "inranker-small")
    assert client.get_run(parent.info.run_id).info.status == "FAILED"
    run_preflight(tmp_path / "report.md")  # the run is tried again
    assert client.get_run(parent.info.run_id).info.status == "RUNNING"

    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "other-run")
    with pytest.raises(UserError):  # it fails, and is still to be seen in MLflow
        run_preflight(tmp_path / "report.md", source=CorpusConfig(uri="ir_datasets:none", name="x"))
    found = client.search_runs([connection.experiment_id(client)], "tags.`inranker.kfp_run_id` = 'other-run'")
    assert len(found) == 1
    with stage_run("retrieve") as orphan:
        assert orphan.parent_id == found[0].info.run_id


def test_a_check_that_hangs_or_breaks_does_not_take_the_others_with_it(monkeypatch):
    monkeypatch.setattr(checks, "DEADLINE", 0.3)

    def broken() -> str:
        raise ZeroDivisionError("by\nzero")

    never = threading.Event()
    silent = Check("a", lambda: str(never.wait()))
    results = run_checks([silent, Check("b", broken), Check("c", lambda: "x | y")])
    never.set()
    assert [each.result for each in results] == ["FAILED", "FAILED", "ok"]
    assert "no answer within 0.3 s; check the network" in results[0].detail
    assert results[1].detail.startswith("ZeroDivisionError: by zero (unexpected")
    assert markdown(results).splitlines()[-1] == "- **c**: ok. x \\| y"


def test_imports_and_work_are_no_waiting(monkeypatch, tmp_path):
    """A module that takes longer to import than a check may wait, and a machine on which that takes long."""
    monkeypatch.setattr(checks, "DEADLINE", 0.5)
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nwhile time.thread_time() < 1.5:\n    pass\nNAME = 'here'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def use() -> str:
        import slow_to_import

        return str(slow_to_import.NAME)

    never = threading.Event()
    results = run_checks([Check("slow", use), Check("also", use), Check("silent", lambda: str(never.wait()))])
    never.set()
    assert [(each.result, each.detail[:4]) for each in results] == [("ok", "here"), ("ok", "here"), ("FAILED", "no a")]


def test_the_adapter_returns_the_champion_where_torch_is_not_installed(database, tmp_path):
    """In a process of its own, with what the base image has."""
    script = """
import dataclasses, json, sys
sys.modules.update(torch=None, transformers=None, accelerate=None, huggingface_hub=None, ir_measures=None, scipy=None)
from kfp import dsl
from components.preflight.component import preflight
sections = json.loads(sys.argv[2])
found = preflight.python_func(
    pipeline="inranker", values=sections, source="", targets="demo:target/7, demo:target/8", teacher="",
    student="", generator="", settings="phase1.max_steps=7 promotion.model_name=nobody",
    need={"stage": "evaluate", "cpu": "1", "memory": "4Gi", "queue": "q", "tolerations": []}, run_key="", work_key="",
    report=dsl.Markdown(uri=sys.argv[1] + "/new/report"),
)
print(json.dumps(found))
"""
    env = {**os.environ, "MLFLOW_TRACKING_URI": database, "INRANKER_EVENTS": str(tmp_path / "events.jsonl")}
    given = profiles.load("demo").arguments()
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(given)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    outputs = component.python_func.__annotations__["return"]._fields
    found = dict(zip(outputs, json.loads(ended.stdout.splitlines()[-1]), strict=True))
    asked = profiles.load(
        "demo", {"targets": ["demo:target/7", "demo:target/8"], "phase1.max_steps": 7, "promotion.model_name": "nobody"}
    )
    # And what becomes of each of several targets that is refused.
    targets = [{**each, "refused": "leave_out"} for each in asked.arguments()["targets"]]
    assert {name: found[name] for name in asked.arguments()} == {**asked.arguments(), "targets": targets}
    assert (found["champion"], found["start"]) == ("", "")
    # As `make submit` gives them, where code of one tag runs.
    assert {name: found[name] for name in ("run_key", "work_key")} == keys("inranker", asked, code_version())
    assert "- **MLflow**: ok. " in (tmp_path / "new" / "report").read_text()
    event = json.loads((tmp_path / "events.jsonl").read_text())
    # Nothing is looked at of a cluster, where there is none.
    assert event["stats"]["checks"] == 9 and event["outputs"] == {"report": str(tmp_path / "new" / "report")}
