"""The network policies: who reaches whom, by what the rendered policies say together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inranker_flow.config.cluster import ClusterConfig
from pipelines.placement import PLACEMENT, SECRETS, STAGE_SECRETS
from tests.contract.manifests import CASES, K8S, OVERLAYS, Manifest, of_kind, pods, render, selects
from tests.contract.network import Pod, reaches

WORKFLOW = {"workflows.argoproj.io/workflow": "inranker-x7k2p"}
#: A driver, say: a pod of a run that is no stage.
RUN = Pod(WORKFLOW)
NODE_DNS, INTERNET, METADATA = "169.254.20.10", "140.82.121.3", "169.254.169.254"
#: Where an API server is, by the overlays' patches.
API_SERVER = {"prod": "192.0.2.1"}
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
#: KFP's servers: in Kubeflow's namespace, and standalone in the one of the runs.
KFP_API = [
    Pod({"app": "ml-pipeline"}, "kubeflow"),
    Pod({"application-crd-id": "kubeflow-pipelines", "app": "ml-pipeline"}),
]
KFP_STORE = [
    Pod({"app": "seaweedfs"}, "kubeflow"),
    Pod({"app": "seaweedfs", "application-crd-id": "kubeflow-pipelines"}),
]
STRANGERS = [
    Pod({"app": "x"}, "default"),
    Pod({"app": "ml-pipeline"}, "kubeflow"),
    Pod({"app": "seaweedfs"}, "default"),
]
#: A server in the cluster that writes queries.
WRITER = {"inranker-flow/writes-queries": "true"}
SCORER = {"inranker-flow/scores-pairs": "true"}
INDEX = {"inranker-flow/searches": "true"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Path(shutil.copytree(K8S, tmp_path_factory.mktemp("manifests") / "k8s", symlinks=True))


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def manifests(case, tree):
    return render(case, tree)


def _stage(name):
    return Pod({**WORKFLOW, "app.kubernetes.io/component": name})


def _server(name):
    return Pod({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "inranker-flow"})


EVERY_POD = [RUN, *map(_stage, PLACEMENT)]


def test_every_pod_of_a_run_reaches_what_kfp_and_argo_ask_in_it(case, manifests):
    for pod in EVERY_POD:
        assert reaches(manifests, pod, DNS, 53, "UDP") and reaches(manifests, pod, NODE_DNS, 53, "UDP")
        for api in KFP_API:
            assert reaches(manifests, pod, api, 8888) and reaches(manifests, pod, api, 8887)
        # Each pod's log goes there; a pod that cannot write it fails.
        for store in KFP_STORE:
            assert reaches(manifests, pod, store, 8333), store
            assert not reaches(manifests, pod, store, 9333) and not reaches(manifests, pod, store, 22)
        # Argo's executor and KFP's launcher.
        assert reaches(manifests, pod, API_SERVER.get(case, "10.96.0.1"), 443)
        assert reaches(manifests, pod, API_SERVER.get(case, "192.168.7.4"), 6443)


def test_nobody_reaches_a_pod_of_a_run(manifests):
    for source in (RUN, _stage("promote"), _server("mlflow"), INTERNET, *STRANGERS):
        for port in (443, 8080, 8888, 22):
            assert not reaches(manifests, source, _stage("evaluate"), port), (source, port)


def test_a_run_reaches_nothing_else(case, manifests):
    for port in (22, 80, 5432):
        assert not reaches(manifests, RUN, INTERNET, port)
    for pod in EVERY_POD:
        assert not reaches(manifests, pod, METADATA, 80) and not reaches(manifests, pod, METADATA, 443)
        for port in (80, 443, 8333):
            assert not reaches(manifests, pod, Pod({"app": "x"}, "default"), port)
            assert not reaches(manifests, pod, Pod({"app": "seaweedfs"}, "default"), port)
        assert not reaches(manifests, pod, Pod({"app": "x"}, "kubeflow"), 8333)


def test_production_reaches_the_kubernetes_api_alone_at_its_port(tree):
    manifests = render("prod", tree)
    assert reaches(manifests, RUN, "192.0.2.1", 6443) and not reaches(manifests, RUN, "10.1.2.3", 6443)


def test_only_stages_that_download_reach_the_internet(case, manifests):
    public_s3 = case in ("prod", "with-public-s3")
    downloading = {stage for stage in PLACEMENT if reaches(manifests, _stage(stage), INTERNET, 80)}
    assert downloading == set(PLACEMENT) - {"discover", "export", "promote"}
    for stage in PLACEMENT:
        expected = public_s3 or stage in downloading
        assert reaches(manifests, _stage(stage), INTERNET, 443) == expected, stage


def test_a_stage_has_the_token_of_a_server_only_if_it_reaches_that_server(tree):
    manifests = render("dev", tree)
    for secret, target, port, others in [
        ("inranker-hub", INTERNET, 443, {"notify"}),  # its webhook is out there, too
        ("inranker-endpoint", Pod(WRITER), 8000, set()),
    ]:
        having = {stage for stage, names in STAGE_SECRETS.items() if secret in names}
        reaching = {stage for stage in PLACEMENT if reaches(manifests, _stage(stage), target, port)}
        assert having == reaching - others and secret not in SECRETS


def test_only_the_stages_that_ask_a_server_for_queries_or_grades_reach_it(manifests):
    for writer in (Pod(WRITER), Pod(WRITER, "default")):
        reaching = {stage for stage in PLACEMENT if reaches(manifests, _stage(stage), writer, 8000)}
        assert reaching == {"preflight", "generate_queries", "help_generate", "evaluate"}


def test_only_the_stages_that_ask_a_server_for_scores_reach_it(manifests):
    for scorer in (Pod(SCORER), Pod(SCORER, "default")):
        reaching = {stage for stage in PLACEMENT if reaches(manifests, _stage(stage), scorer, 8000)}
        assert reaching == {"preflight", "teacher_label", "help_label", "evaluate"}
        assert all("inranker-hub" in STAGE_SECRETS[stage] for stage in reaching), "its key is there"


def test_only_the_stages_that_search_an_index_reach_it(manifests):
    for index in (Pod(INDEX), Pod(INDEX, "default")):
        reaching = {stage for stage in PLACEMENT if reaches(manifests, _stage(stage), index, 9200)}
        assert reaching == {"preflight", "retrieve"}
        assert all("inranker-hub" in STAGE_SECRETS[stage] for stage in reaching), "its key is there"


@pytest.mark.parametrize("overlay", ["dev", "kind"])
def test_the_overlays_servers_are_reached_by_their_clients_alone(overlay, tree):
    manifests = render(overlay, tree)
    mlflow, postgres, store = map(_server, ("mlflow", "mlflow-postgres", "object-store"))
    creator = _server("create-bucket")
    for source, target, port in [
        (RUN, mlflow, 5000), (RUN, store, 8333), (mlflow, postgres, 5432), (mlflow, store, 8333),
        (creator, store, 9333), (creator, store, 19333), (creator, store, 8888), (creator, store, 18888),
        (Pod({"app": "ml-pipeline-ui"}), store, 8333), (Pod({"app": "a notebook"}), mlflow, 5000),
    ]:  # fmt: skip
        assert reaches(manifests, source, target, port), (source, target, port)
    for source, target, port in [
        (RUN, postgres, 5432), (RUN, store, 9333), (RUN, store, 8888), (store, postgres, 5432),
        (mlflow, INTERNET, 443), (store, INTERNET, 443), (creator, INTERNET, 443), (postgres, INTERNET, 443),
        *((stranger, server, port) for stranger in (*STRANGERS, INTERNET)
          for server, port in ((mlflow, 5000), (store, 8333), (store, 9333), (postgres, 5432))),
    ]:  # fmt: skip
        assert not reaches(manifests, source, target, port), (source, target, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_another_teams_namespace_is_a_stranger(overlay, tree):
    """Two teams' objects in one cluster: neither's pods reach the other's runs or servers."""
    both = render(overlay, tree, "search") + render(overlay, tree, "legal")
    for mine, other in (("search", "legal"), ("legal", "search")):
        theirs = Pod(_server("mlflow").labels, other)
        assert not reaches(both, Pod(WORKFLOW, mine), Pod(WORKFLOW, other), 8080)
        assert not reaches(both, Pod(WORKFLOW, mine), theirs, 5000)
        assert not reaches(both, Pod({"app": "a notebook"}, mine), Pod(WORKFLOW, other), 8080)


def test_the_job_of_an_event_reaches_kfp_alone(tree):
    manifests = render("with-argo-events", tree)
    job = _server("inranker-start-run")
    assert all(reaches(manifests, job, api, 8888) for api in KFP_API)
    assert not reaches(manifests, job, _server("object-store"), 8333)
    assert not reaches(manifests, job, INTERNET, 443)


def test_policies_select_pods_that_exist(manifests):
    known = [pod["metadata"]["labels"] for _, pod in pods(manifests)] + [_stage(stage).labels for stage in PLACEMENT]
    for runtime in of_kind(manifests, "TrainingRuntime"):
        jobs = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        known += [job["template"]["spec"]["template"]["metadata"]["labels"] for job in jobs]
    known += [each["spec"]["predictor"]["labels"] for each in of_kind(manifests, "InferenceService")]
    servers = [*(each.labels for each in KFP_STORE + KFP_API), WRITER, SCORER, INDEX]
    for policy in of_kind(manifests, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        assert any(selects(spec["podSelector"], labels) for labels in known), name
        for rule in (*spec.get("egress", []), *spec.get("ingress", [])):
            for peer in (*rule.get("to", []), *rule.get("from", [])):
                selector = peer.get("podSelector")
                assert selector is None or any(selects(selector, labels) for labels in known + servers), name


def test_the_compiled_pipeline_labels_pods_as_the_policies_select_them(tmp_path):
    from pipelines.compile import compile_pipeline, read

    compiled = compile_pipeline("retrain", tmp_path / "retrain.yaml", ClusterConfig(workers=2))  # it has every stage
    _, platform = read(compiled)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    labels = [each.get("podMetadata", {}).get("labels", {}) for each in executors.values()]
    assert {each.get("app.kubernetes.io/component") for each in labels} == set(PLACEMENT)


# The evaluator itself, by the examples of Kubernetes' documentation


def _policy(direction: str, **rule: object) -> Manifest:
    spec = {"podSelector": {"matchLabels": {"role": "db"}}, "policyTypes": [direction], direction.lower(): [rule]}
    return {"kind": "NetworkPolicy", "metadata": {"name": "a", "namespace": "inranker"}, "spec": spec}


def test_terms_of_one_peer_are_both_asked_and_peers_are_alternatives():
    db, alice = Pod({"role": "db"}), {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "alice"}}}
    client = {"podSelector": {"matchLabels": {"role": "client"}}}
    both, either = (
        _policy("Ingress", **{"from": [{**alice, **client}]}),
        _policy("Ingress", **{"from": [alice, client]}),
    )
    for labels, namespace, by_both, by_either in [
        ("client", "alice", True, True), ("other", "alice", False, True), ("client", "inranker", False, True),
        ("client", "bob", False, False),
    ]:  # fmt: skip
        source = Pod({"role": labels}, namespace)
        assert (reaches([both], source, db, 1), reaches([either], source, db, 1)) == (by_both, by_either)


def test_policies_add_up_and_bind_only_the_pods_and_direction_that_they_select():
    db = Pod({"role": "db"})
    closed = _policy("Ingress", **{"from": [], "ports": [{"port": 1}]})
    web = _policy("Ingress", **{"ports": [{"port": 80}]})
    assert not reaches([closed], "192.0.2.7", db, 80) and reaches([closed, web], "192.0.2.7", db, 80)
    assert not reaches([web], "192.0.2.7", db, 80, "UDP") and reaches([web], db, "192.0.2.7", 443)
    assert reaches([closed], "192.0.2.7", Pod({"role": "web"}), 80) and reaches(
        [closed], "192.0.2.7", Pod(db.labels, "b"), 80
    )
    block = _policy("Egress", to=[{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/30"]}}])
    assert reaches([block], db, "192.0.2.7", 1) and not reaches([block], db, "192.0.2.9", 1)
    assert not reaches([block], db, Pod({}, "b"), 1)


@pytest.mark.parametrize("case", ["with-serving", "with-kserve"])
def test_the_reranker_is_asked_by_its_namespace_and_reads_the_registry_alone(case, tree):
    manifests = render(case, tree)
    reranker = _server("inranker-reranker")
    assert reaches(manifests, Pod({"app": "search"}), reranker, 8080)
    assert not reaches(manifests, Pod({"app": "search"}, "default"), reranker, 8080)
    assert not reaches(manifests, Pod({"app": "search"}), reranker, 22)
    for store, port in ((_server("mlflow"), 5000), (_server("object-store"), 8333)):
        assert reaches(manifests, reranker, store, port)
    assert reaches(manifests, reranker, DNS, 53, "UDP") and reaches(manifests, reranker, INTERNET, 443)
    for stranger in (*STRANGERS, RUN):
        assert not reaches(manifests, reranker, stranger, 8888) and not reaches(manifests, reranker, stranger, 8333)
    assert not reaches(manifests, reranker, METADATA, 443) and not reaches(manifests, reranker, METADATA, 80)
