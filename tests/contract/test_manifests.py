"""The Kubernetes manifests: valid, consistent with each other and with the code, and no right more than is used."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from inranker_flow.commands import serve
from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.config.sections import PromoteConfig
from inranker_flow.distillation import trainjob
from inranker_flow.environment.mounted import MOUNTS
from inranker_flow.services import kfp_run
from inranker_flow.serving import server
from inranker_flow.serving.app import make_app
from pipelines.placement import (
    COMPONENT_LABEL,
    CPU_QUEUE,
    PLACEMENT,
    QUEUE,
    SECRETS,
    SETTINGS,
    STAGE_SECRETS,
    queue,
)
from tests.contract.manifests import (
    CASES,
    CLUSTER_SCOPED,
    COMPONENTS,
    K8S,
    NAMESPACE,
    OVERLAYS,
    ROOT,
    containers,
    grants,
    kubectl,
    named,
    of_kind,
    pods,
    render,
    selects,
)

#: The oldest Kubernetes that the manifests are written for.
KUBERNETES = "1.32"
SCHEMAS = ROOT.parent / "shared" / "reference" / "schemas"
#: By digest, and by the tag that a person reads.
IMAGE = re.compile(
    r"[a-z./]+:v?\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}"
    # No digest of this one could be had where these lines were written.
    r"|ghcr\.io/mlflow/mlflow:v\d+\.\d+\.\d+-full"
    # The project's own, which an overlay names (`images:`).
    r"|inranker-flow-serve:0\.0-CHANGE-ME"
)
OPTIONAL_SECRETS = {*SECRETS, *(name for names in STAGE_SECRETS.values() for name in names)}


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of `k8s/` in which tests may add overlays."""
    return Path(shutil.copytree(K8S, tmp_path_factory.mktemp("manifests") / "k8s", symlinks=True))


@pytest.fixture(params=CASES)
def manifests(request, tree):
    return render(request.param, tree)


# Schemas


def test_each_object_is_valid_kubernetes(manifests):
    for each in manifests:
        if not _custom(each):
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_each_kueue_and_argo_events_object_fits_its_published_schema(tree):
    if not SCHEMAS.is_dir():
        pytest.skip(f"no published schemas at {SCHEMAS}")
    custom = [
        each
        for name in ("kueue", "argo-events")
        for each in render(f"with-{name}", tree)
        if _custom(each) and each["kind"] != "PodDefault"
    ]
    assert {each["kind"] for each in custom} == {
        "ResourceFlavor", "ClusterQueue", "LocalQueue", "EventBus", "EventSource", "Sensor",
    }  # fmt: skip
    for each in custom:
        problems = [f"{error.json_path}: {error.message}" for error in _schema(each).iter_errors(each)]
        assert not problems, (each["kind"], problems)


def test_a_pod_default_adds_to_a_pod_what_a_pod_may_have(tree):
    """Kubeflow's webhook copies these fields into the pod and its containers."""
    for case, key in (("with-kfp-token", "env"), ("with-identity-azure", "labels")):
        [given] = [each for each in of_kind(render(case, tree), "PodDefault") if key in each["spec"]]
        spec = given["spec"]
        assert set(spec) <= {"selector", "desc", "env", "volumes", "volumeMounts", "labels", "annotations"}
        container = {"name": "user", "image": "x", "env": spec.get("env", [])}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a", "labels": spec.get("labels", {})},
            "spec": {
                "containers": [{**container, "volumeMounts": spec.get("volumeMounts", [])}],
                "volumes": spec.get("volumes", []),
            },
        }
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_notify_alone_gets_a_token_for_kfp_where_it_looks_for_one(tree):
    [given] = [each["spec"] for each in of_kind(render("with-kfp-token", tree), "PodDefault")]
    assert [stage for stage in PLACEMENT if selects(given["selector"], {COMPONENT_LABEL: stage})] == ["notify"]
    [variable], [mount], [volume] = given["env"], given["volumeMounts"], given["volumes"]
    [source] = volume["projected"]["sources"]
    assert variable["name"] == "KF_PIPELINES_SA_TOKEN_PATH" and mount["name"] == volume["name"]
    assert variable["value"] == f"{mount['mountPath']}/{source['serviceAccountToken']['path']}" == kfp_run.TOKEN_PATH
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


def _custom(manifest):
    return manifest["apiVersion"].split("/")[0] in (
        "kueue.x-k8s.io",
        "argoproj.io",
        "kubeflow.org",
        "trainer.kubeflow.org",
        "serving.kserve.io",
    )


@cache
def _documents():
    events = json.loads((SCHEMAS / "argo_events.schema.json").read_text())
    return {"argo": events, **{path.stem: yaml.safe_load(path.read_text()) for path in SCHEMAS.glob("kueue_*.yaml")}}


def _schema(manifest):
    kind, version = manifest["kind"], manifest["apiVersion"].split("/")[1]
    if manifest["apiVersion"].startswith("argoproj.io"):
        definitions = _strict(_documents()["argo"]["definitions"])
        return Draft202012Validator(
            {"definitions": definitions, "$ref": f"#/definitions/io.argoproj.events.{version}.{kind}"}
        )
    crd = _documents()[f"kueue_{kind.lower()}s"]
    found = [each for each in crd["spec"]["versions"] if each["name"] == version and each["served"]]
    assert found, f"{kind}: no served version {version}"
    schema = _strict(found[0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def _strict(node):
    """A schema that refuses keys it does not know, as the API server does."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    known = node.get("properties")
    if isinstance(known, dict) and "additionalProperties" not in node and "$ref" not in known:
        strict["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return strict


# Consistency


def test_there_is_one_resource_in_each_file_and_no_file_is_forgotten():
    used = set()
    for kustomization in K8S.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        patches = [patch["path"] for patch in content.get("patches", [])]
        for name in (*content.get("resources", []), *patches):
            if name.startswith("github.com/"):
                continue
            path = (kustomization.parent / name).resolve()
            assert path.exists(), f"{kustomization}: {name}"
            used.add(path)
    files = {path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files == {path for path in used if path.is_file()}
    for path in files:
        assert len(list(yaml.safe_load_all(path.read_text()))) == 1, path


def test_everything_lies_in_the_one_namespace_which_is_none_of_it(manifests):
    for each in manifests:
        found = each["metadata"].get("namespace")
        assert found == (None if each["kind"] in CLUSTER_SCOPED else NAMESPACE), (each["kind"], each["metadata"])
    assert not of_kind(manifests, "Namespace"), (
        "its labels may be a Profile's: make deploy creates it where it is missing"
    )


@pytest.mark.parametrize(
    ("folder", "level"),
    [("namespace", "restricted"), ("overlays/kind/namespace", "baseline")],
    ids=["namespace", "kind"],
)
def test_the_namespace_enforces_pod_security(folder, level, tree):
    ended = subprocess.run([kubectl(), "kustomize", tree / folder], capture_output=True, text=True, check=True)
    namespace = yaml.safe_load(ended.stdout)
    kubernetes_validate.validate(namespace, KUBERNETES, strict=True)
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == level
    assert {label.partition("/")[0] for label in labels} == {"pod-security.kubernetes.io"}


@pytest.mark.parametrize("case", ["kind", "prod", "with-kueue", "with-argo-events"])
def test_two_teams_share_a_cluster_and_no_object(case, tree):
    """Nothing of one namespace's objects names the other, and what is the whole cluster's has a name for each."""
    search, legal = (render(case, tree, namespace) for namespace in ("my-search", "legal"))
    for mine, other in ((search, "legal"), (legal, "my-search")):
        assert other not in yaml.safe_dump_all(mine)
    # A pool of nodes is one for all.
    shared = {"ResourceFlavor"}
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in manifests if each["kind"] in CLUSTER_SCOPED - shared}
        for manifests in (search, legal)
    ]
    assert names[0] and not names[0] & names[1]
    of_search, of_legal = (yaml.safe_dump_all(each) for each in (search, legal))
    assert of_search.replace("my-search", "legal") == of_legal
    for binding in of_kind(search, "RoleBinding", "ClusterRoleBinding"):
        named(search, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert {subject["namespace"] for subject in binding["subjects"]} == {"my-search"}
    default = yaml.safe_dump_all(render(case, tree))
    assert of_search.replace("my-search", "NAMESPACE") == re.sub(
        r"(?<=namespace: )inranker\b|(?<=metadata.name: )inranker\b|(?<=-)inranker(?=$|-cpu$)",
        "NAMESPACE",
        default,
        flags=re.MULTILINE,
    )


def test_an_overlay_in_a_namespace_of_its_own_is_what_make_deploy_renders(tree):
    """Argo CD and Flux know Kustomize, and no `make deploy`."""
    folder = tree / "overlays" / "of-search"
    folder.mkdir()
    content = {"namespace": "search", "resources": ["../prod"], "transformers": ["../../namespaced"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    ended = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=True)
    assert list(yaml.safe_load_all(ended.stdout)) == render("prod", tree, "search")


def test_selectors_select_their_own_pods_and_services_reach_a_port(manifests):
    for each in of_kind(manifests, "Deployment", "StatefulSet"):
        own = each["spec"]["template"]["metadata"]["labels"]
        selector = each["spec"]["selector"]
        assert selector["matchLabels"] and selects(selector, own)
        assert sum(selects(selector, pod["metadata"]["labels"]) for _, pod in pods(manifests)) == 1
    for service in of_kind(manifests, "Service"):
        behind = [
            pod for _, pod in pods(manifests)
            if selects({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
        ]  # fmt: skip
        assert len(behind) == 1, service["metadata"]["name"]
        offered = {port["name"]: port["containerPort"] for port in containers(behind[0])[0]["ports"]}
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}.items() <= offered.items()
    for each in of_kind(manifests, "StatefulSet"):
        named(manifests, "Service", each["spec"]["serviceName"])


def test_bindings_bind_roles_and_service_accounts_that_exist(manifests):
    accounts = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    roles = of_kind(manifests, "Role", "ClusterRole")
    bound = set()
    for binding in of_kind(manifests, "RoleBinding", "ClusterRoleBinding"):
        reference = binding["roleRef"]
        named(manifests, reference["kind"], reference["name"])
        bound.add((reference["kind"], reference["name"]))
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", NAMESPACE)
            assert subject["name"] in accounts
    assert bound == {(role["kind"], role["metadata"]["name"]) for role in roles}, "a role that nobody has"


def test_pods_use_service_accounts_and_configuration_that_exist(manifests):
    accounts = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    config_maps = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "ConfigMap")}
    made = _credentials("dev")
    for where, pod in pods(manifests):
        account = pod["spec"].get("serviceAccountName")
        assert account is None or account in accounts, (where, account)
        for container in containers(pod):
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if reference := source.get("configMapKeyRef"):
                    assert reference["key"] in config_maps[reference["name"]], (where, variable["name"])
                if reference := source.get("secretKeyRef"):
                    assert reference["key"] in made[reference["name"]], (where, variable["name"])
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in config_maps, (where, volume)
        volumes = {each["name"] for each in pod["spec"].get("volumes", [])}
        claims = {"data"} if where.startswith("StatefulSet") else set()
        mounts = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        assert mounts == volumes | claims, where


def _credentials(overlay):
    """Secret -> keys that `make deploy` creates for an overlay."""
    path = K8S / "overlays" / overlay / "credentials"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {name: set(keys) for name, *keys in rows}


# Containers


def test_each_container_has_limits_a_pinned_image_and_a_restricted_security_context(manifests):
    for where, pod in pods(manifests):
        shared = pod["spec"]["securityContext"]
        assert shared["runAsNonRoot"] is True and shared["runAsUser"] > 0, where
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert pod["spec"]["automountServiceAccountToken"] is False, where
        assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false", where
        for container in containers(pod):
            _check_resources(where, container["resources"])
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, where
            assert own["capabilities"] == {"drop": ["ALL"]}, where
            assert IMAGE.fullmatch(container["image"]), (where, container["image"])
        for volume in pod["spec"].get("volumes", []):
            assert "emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"), (where, volume)
    for each in of_kind(manifests, "EventSource", "Sensor"):
        container = each["spec"]["template"]["container"]
        _check_resources(each["metadata"]["name"], container["resources"])
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["runAsNonRoot"] is True
    for each in of_kind(manifests, "EventBus"):
        bus = each["spec"]["jetstream"]
        assert bus["securityContext"]["runAsNonRoot"] and bus["securityContext"]["seccompProfile"]
        for name in ("containerTemplate", "reloaderContainerTemplate", "metricsContainerTemplate"):
            own = bus[name]["securityContext"]
            assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, name


def _check_resources(where, resources):
    for kind in ("requests", "limits"):
        assert set(resources[kind]) >= {"cpu", "memory"}, (where, kind)


def test_servers_are_probed_and_long_running(manifests):
    for each in of_kind(manifests, "Deployment", "StatefulSet"):
        for container in containers(each["spec"]["template"]):
            assert container["readinessProbe"] and container["livenessProbe"], each["metadata"]["name"]


def test_no_secret_value_is_in_any_manifest(manifests):
    assert not of_kind(manifests, "Secret")
    secret = re.compile(r"KEY|SECRET|PASSWORD|TOKEN(?!_PATH)")
    for where, pod in pods(manifests):
        for container in containers(pod):
            for variable in container.get("env", []):
                assert not secret.search(variable["name"]) or "valueFrom" in variable, (where, variable["name"])
    for each in of_kind(manifests, "ConfigMap"):
        assert not [key for key in each["data"] if secret.search(key)], each["metadata"]["name"]
    for path in K8S.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30}|://[^/\s$]+:[^$/\s@]+@", path.read_text()), path


# Rights

#: What the commands ask of KFP's API, and what its multi-user mode asks Kubernetes for it.
KFP_CALLS = {
    "healthz_service_get_healthz": None,
    "pipeline_service_list_pipelines": ("pipelines", "list"),
    "pipeline_service_create_pipeline": ("pipelines", "create"),
    "pipeline_service_list_pipeline_versions": ("pipelines", "list"),
    "upload_pipeline_version": ("pipelines", "create"),
    "experiment_service_list_experiments": ("experiments", "list"),
    "experiment_service_create_experiment": ("experiments", "create"),
    "run_service_list_runs": ("runs", "list"),
    "run_service_get_run": ("runs", "get"),
    "run_service_create_run": ("runs", "create"),
    "run_service_terminate_run": ("runs", "terminate"),
    "recurring_run_service_list_recurring_runs": ("jobs", "list"),
    "recurring_run_service_create_recurring_run": ("jobs", "create"),
    "recurring_run_service_enable_recurring_run": ("jobs", "enable"),
    "recurring_run_service_disable_recurring_run": ("jobs", "disable"),
    "recurring_run_service_get_recurring_run": ("jobs", "get"),
    "recurring_run_service_delete_recurring_run": ("jobs", "delete"),
}
#: What the commands ask of Kubernetes.
KUBERNETES_CALLS = {
    "list_node": ("", "nodes", "list"),
    "list_namespaced_pod": ("", "pods", "list"),
    "list_namespaced_event": ("", "events", "list"),
    "read_namespaced_pod_log": ("", "pods/log", "get"),
    "read_namespaced_config_map": ("", "configmaps", "get"),
}
#: Custom kinds that `make why` and `make runs` list.
CUSTOM = {("kueue.x-k8s.io", "workloads", "list"), ("argoproj.io", "workflows", "list")}


def _calls(pattern, *paths):
    found = re.findall(pattern, "\n".join(path.read_text() for path in paths))
    assert found, f"nothing in {paths} matches {pattern}: has the code moved?"
    return set(found)


def test_the_submitter_may_do_what_the_commands_do_and_nothing_more(manifests):
    commands = sorted((ROOT / "pipelines").glob("*.py"))
    asked = _calls(r"\._(?:pipelines|uploads|experiments|runs|recurring|health)\.(\w+)", *commands)
    rights = {KFP_CALLS[call] for call in asked} - {None}
    # A run of a version may be created by whoever may read its pipeline.
    expected = {("pipelines.kubeflow.org", *right, "") for right in rights | {("pipelines", "get")}}
    asked = _calls(r"\._core\.(\w+)", *commands)
    assert _calls(r"\._custom\.(\w+)", *commands) == {"list_namespaced_custom_object"}
    named = {"read_namespaced_config_map": "kfp-launcher"}
    expected |= {(*KUBERNETES_CALLS[call], named.get(call, "")) for call in asked} | {(*each, "") for each in CUSTOM}
    assert grants(manifests, "inranker-submitter") == expected


#: What a training over several machines asks of the API (`trainjob.py`), with the component alone.
TRAINS = {
    *(("trainer.kubeflow.org", "trainjobs", verb, "") for verb in ("create", "get", "delete")),
    ("trainer.kubeflow.org", "trainingruntimes", "get", trainjob.RUNTIME),
    ("", "pods", "list", ""),
    ("", "pods/log", "get", ""),
}


def test_the_runner_may_do_what_stages_and_executors_do_and_nothing_more(manifests):
    library = ROOT / "src" / "inranker_flow"
    paths = _calls(r'f"(?:/api/v1|\{root\})(?:/namespaces/\{namespace\})?/(\w+)[/?]', library / "preflight" / "pool.py")
    preflight = {
        "nodes": ("", "nodes", "list", ""),
        "localqueues": ("kueue.x-k8s.io", "localqueues", "get", QUEUE),
        "clusterqueues": ("kueue.x-k8s.io", "clusterqueues", "get", ""),
    }
    assert _calls(r'f"(\w+)/\{quote', library / "services" / "kfp_run.py") == {"runs", "recurringruns"}
    expected = {
        *(preflight[path] for path in paths - {"trainingruntimes"}),
        (*preflight["localqueues"][:3], CPU_QUEUE),
        ("pipelines.kubeflow.org", "runs", "get", ""),
        ("pipelines.kubeflow.org", "jobs", "get", ""),
        # Argo's executor, and KFP's driver and launcher: code that is not here.
        ("argoproj.io", "workflowtaskresults", "create", ""),
        ("argoproj.io", "workflowtaskresults", "patch", ""),
        ("", "configmaps", "get", "kfp-launcher"),
        ("", "pods", "get", ""),
    }
    if of_kind(manifests, "TrainingRuntime"):
        expected |= TRAINS
    rights = grants(manifests, "inranker-runner")
    # The launcher's keys, where it has any: those of the overlay's store, or of KFP's own.
    keys = {("", "secrets", "get", name) for name in ("inranker-s3", "mlpipeline-minio-artifact")}
    assert rights - keys == expected and len(rights & keys) <= 1


def test_each_service_account_is_used(manifests):
    """By runs, by whoever submits, by Argo Events: KFP gives one account to all tasks of a run."""
    accounts = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    assert accounts - {"inranker-events"} == {"inranker-runner", "inranker-submitter"}
    assert all(grants(manifests, account) for account in accounts)


def test_no_role_has_a_wildcard_or_hands_out_rights(manifests):
    for role in of_kind(manifests, "Role", "ClusterRole"):
        for rule in role["rules"]:
            for values in rule.values():
                assert not [value for value in values if "*" in value], role["metadata"]["name"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            readable = "secrets" not in rule["resources"] or rule.get("resourceNames")
            assert readable, f"{role['metadata']['name']}: every secret of the namespace"


def test_tokens_are_mounted_only_where_they_are_used(manifests):
    mounted = {
        each["metadata"]["name"]: each["automountServiceAccountToken"] for each in of_kind(manifests, "ServiceAccount")
    }
    used = {"inranker-runner", "inranker-events"}
    assert all(value == (name in used) for name, value in mounted.items()), mounted


def test_the_events_account_creates_the_one_job_and_nothing_else(tree):
    manifests = render("with-argo-events", tree)
    assert grants(manifests, "inranker-events") == {("batch", "jobs", "create", "")}
    for kind in ("EventSource", "Sensor"):
        [each] = of_kind(manifests, kind)
        assert each["spec"]["template"]["serviceAccountName"] == "inranker-events"
    [source], [sensor] = of_kind(manifests, "EventSource"), of_kind(manifests, "Sensor")
    [dependency] = sensor["spec"]["dependencies"]
    assert dependency["eventSourceName"] == source["metadata"]["name"]
    assert dependency["eventName"] in source["spec"]["sqs"]
    assert named(manifests, "EventBus", source["spec"]["eventBusName"])


# Stores and settings


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_variables_that_the_pods_read(overlay, tree):
    settings = named(render(overlay, tree), "ConfigMap", SETTINGS)["data"]
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", key) for key in settings)
    assert settings["INRANKER_STORE"].startswith("s3://")
    assert {"MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "AWS_REGION"} <= set(settings)
    assert settings.get("MLFLOW_S3_ENDPOINT_URL") == settings.get("AWS_ENDPOINT_URL")


def _with_static_keys(tree):
    """`prod` with S3 keys in a Secret, as docs/cluster.md describes it."""
    folder = tree / "overlays" / "static-keys"
    folder.mkdir(exist_ok=True)
    patch = copy.deepcopy(named(render("kind", tree), "ConfigMap", "kfp-launcher"))
    patch["data"] = {**patch["data"], "defaultPipelineRoot": "s3://CHANGE-ME/inranker/kfp"}
    patch["data"]["providers"] = re.sub(
        "^ *(endpoint|disableSSL|forcePathStyle):.*\n", "", patch["data"]["providers"], flags=re.M
    )
    patch["data"]["providers"] = patch["data"]["providers"].replace("us-east-1", "eu-central-1")
    (folder / "launcher.yaml").write_text(yaml.safe_dump(patch))
    content = {
        "resources": ["../prod"],
        "components": ["../../components/s3-keys"],
        "patches": [{"path": "launcher.yaml"}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return "static-keys"


@pytest.mark.parametrize("overlay", ["kind", "prod", "static-keys"])
def test_kfp_stores_artifacts_where_the_stages_store_theirs(overlay, tree):
    manifests = render(_with_static_keys(tree) if overlay == "static-keys" else overlay, tree)
    settings = named(manifests, "ConfigMap", "inranker-settings")["data"]
    own = named(manifests, "ConfigMap", "kfp-launcher")
    launcher = own["data"]
    [(scheme, provider)] = yaml.safe_load(launcher["providers"]).items()
    default = provider["default"]
    bucket = launcher["defaultPipelineRoot"].removeprefix("s3://").split("/")[0]
    assert scheme == "s3" and settings["INRANKER_STORE"].startswith(f"s3://{bucket}/")
    assert default["region"] == settings["AWS_REGION"]
    assert default.get("endpoint") == settings.get("AWS_ENDPOINT_URL")
    assert bool(default.get("disableSSL")) == (default.get("endpoint") or "").startswith("http://")
    reference = default["credentials"].get("secretRef")
    readable = ("", "secrets", "get", "inranker-s3") in grants(manifests, "inranker-runner")
    if default["credentials"]["fromEnv"]:
        runner = named(manifests, "ServiceAccount", "inranker-runner")
        assert reference is None and not readable
        assert "eks.amazonaws.com/role-arn" in runner["metadata"]["annotations"]
    else:
        assert readable and reference["secretName"] == "inranker-s3"
        assert {reference["accessKeyKey"], reference["secretKeyKey"]} == {
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
        }
    assert own["metadata"]["labels"]["inranker-flow/takes-over"] == "true", "KFP brings one, which would conflict"


def test_in_multi_user_mode_kfp_keeps_artifacts_in_its_own_store(tree):
    """Its UI reads no other one by a Secret there, and the profile controller makes `kfp-launcher`."""
    manifests = render("dev", tree)
    assert "kfp-launcher" not in {each["metadata"]["name"] for each in of_kind(manifests, "ConfigMap")}
    secrets = {right for right in grants(manifests, "inranker-runner") if right[1] == "secrets"}
    assert secrets == {("", "secrets", "get", "mlpipeline-minio-artifact")}


@pytest.mark.parametrize("overlay", ["dev", "kind"])
def test_addresses_of_the_overlays_own_servers_are_services_with_that_port(overlay, tree):
    manifests = render(overlay, tree)
    addresses = "\n".join(str(each.get("data", "")) for each in of_kind(manifests, "ConfigMap"))
    found = set(re.findall(r"http://([a-z-]+):(\d+)", addresses))
    own = {(name, port) for name, port in found if name != "ml-pipeline"}
    assert {name for name, _ in own} == {"mlflow", "object-store"}
    for name, port in own:
        assert int(port) in [each["port"] for each in named(manifests, "Service", name)["spec"]["ports"]]
    kfp = "ml-pipeline" if overlay == "kind" else "ml-pipeline.kubeflow.svc"
    assert f"http://{kfp}:8888" in addresses


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_credentials_that_are_made_are_those_that_are_used(overlay, tree):
    manifests = render(overlay, tree)
    used = {}
    for _, pod in pods(manifests):
        for variable in (each for container in containers(pod) for each in container.get("env", [])):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                used.setdefault(reference["name"], set()).add(reference["key"])
    assert _credentials(overlay) == used
    # What else may be a Secret is optional, and a pod that lacks it starts.
    assert {role for _, resource, _, role in grants(manifests, "inranker-runner") if resource == "secrets"} <= (
        OPTIONAL_SECRETS | {"mlpipeline-minio-artifact"}
    )


# Trainings over several machines


def test_a_machine_of_a_training_is_a_pod_like_those_of_the_stage_that_asks_for_it(tree):
    """Of custom resources only what the Trainer copies can be held against Kubernetes: the pod."""
    manifests = render("with-trainer", tree)
    runtime = named(manifests, "TrainingRuntime", trainjob.RUNTIME)
    assert runtime["apiVersion"] == f"{trainjob.GROUP}/{trainjob.VERSION}" and "torch" in runtime["spec"]["mlPolicy"]
    [node] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    pod = node["template"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node", "labels": labels}, "spec": pod["spec"]},
        KUBERNETES, strict=True,
    )  # fmt: skip
    [container] = pod["spec"]["containers"]
    assert container["name"] == node["name"] == "node", "whose log the stage asks for"
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert volumes[mounts[str(MOUNTS / "settings")]]["configMap"]["name"] == SETTINGS
    for secret in ("inranker-s3", *STAGE_SECRETS["distill_phase1"]):
        place = str(MOUNTS / secret.removeprefix("inranker-"))
        assert volumes[mounts[place]]["secret"] == {"secretName": secret, "optional": True}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["sizeLimit"] == PLACEMENT["distill_phase1"].shm
    assert pod["spec"]["nodeSelector"] == ClusterConfig().gpu_pool
    assert [each["key"] for each in pod["spec"]["tolerations"]] == [
        each.key for each in ClusterConfig().gpu_tolerations
    ]
    assert not pod["spec"]["automountServiceAccountToken"]
    policy = named(manifests, "NetworkPolicy", "inranker-nodes-to-each-other")["spec"]
    assert selects(policy["podSelector"], labels)
    assert [selects(each["podSelector"], labels) for each in policy["ingress"][0]["from"]] == [True]


# The server


@pytest.mark.parametrize("case", ["with-serving", "with-kserve"])
def test_the_server_is_started_as_its_command_takes_it_and_probed_where_it_answers(case, tree):
    manifests = render(case, tree)
    found = of_kind(manifests, "InferenceService") or [named(manifests, "Deployment", "inranker-reranker")]
    spec = found[0]["spec"].get("predictor") or found[0]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    of_kserve = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "labels")
    own = {name: each for name, each in spec.items() if name not in of_kserve}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"}, "spec": own}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    if "scaleMetric" in spec:  # as KServe's webhook has it, which checks for Knative's autoscaler otherwise
        annotations = found[0]["metadata"]["annotations"]
        assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
        assert annotations["serving.kserve.io/autoscalerClass"] == "hpa" and spec["scaleMetric"] in ("cpu", "memory")
        assert 1 <= spec["scaleTarget"] <= 100 and 0 <= spec["minReplicas"] <= spec["maxReplicas"]
    assert container["command"] == ["python3", "-m", "inranker_flow", "serve"]
    options = serve._parser().parse_args(container["args"])
    assert options.host == "0.0.0.0" and options.port == container["ports"][0]["containerPort"]
    assert options.model == PromoteConfig.model_name
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in {route.path for route in make_app(_nothing()).routes}
    assert spec["terminationGracePeriodSeconds"] > server._LAST_SECONDS + 10
    assert container["securityContext"]["readOnlyRootFilesystem"] and spec["securityContext"]["runAsNonRoot"]
    assert [each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each] == [SETTINGS]
    assert {each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each} == set(SECRETS)


def _nothing():
    class Nothing:
        name = ""

    return Nothing()


# Quotas and queue


def _number(quantity):
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|Ki|Mi|Gi|Ti)?", str(quantity))
    scale = {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(found[1]) * scale[found[2]]


@pytest.mark.parametrize("case", ["dev", "prod", "with-quota"])
def test_the_quota_has_room_for_the_largest_task(case, tree):
    manifests = render(case, tree)
    hard = named(manifests, "ResourceQuota", "inranker")["spec"]["hard"]
    for row in PLACEMENT.values():
        for kind in ("requests", "limits"):
            assert _number(row.cpu) <= _number(hard[f"{kind}.cpu"])
            assert _number(row.memory) <= _number(hard[f"{kind}.memory"])
    assert _number(hard["requests.nvidia.com/gpu"]) >= ClusterConfig().gpus
    [limit] = named(manifests, "LimitRange", "inranker")["spec"]["limits"]
    for resource in ("cpu", "memory"):
        assert _number(limit["defaultRequest"][resource]) <= _number(limit["default"][resource])


def test_one_machine_with_kfp_in_the_namespace_has_no_quota(tree):
    assert not of_kind(render("kind", tree), "ResourceQuota", "LimitRange")


def test_the_queue_admits_every_gpu_task_and_its_flavor_is_the_profiles_pool(tree):
    manifests = render("with-kueue", tree)
    queue = named(manifests, "LocalQueue", QUEUE)
    behind = named(manifests, "ClusterQueue", queue["spec"]["clusterQueue"])
    assert selects(behind["spec"]["namespaceSelector"], {"kubernetes.io/metadata.name": NAMESPACE})
    [group] = behind["spec"]["resourceGroups"]
    [flavor] = group["flavors"]
    quota = {each["name"]: _number(each["nominalQuota"]) for each in flavor["resources"]}
    defaults = ClusterConfig()
    assert set(quota) == set(group["coveredResources"]) == {"cpu", "memory", defaults.gpu_type}
    for row in (row for row in PLACEMENT.values() if row.gpu):
        assert _number(row.cpu) <= quota["cpu"] and _number(row.memory) <= quota["memory"]
    assert quota[defaults.gpu_type] >= defaults.node_gpus
    pool = named(manifests, "ResourceFlavor", flavor["name"])["spec"]
    assert pool["nodeLabels"] == defaults.gpu_pool
    assert [each["key"] for each in pool["tolerations"]] == [each.key for each in defaults.gpu_tolerations]


def test_the_other_queue_admits_every_other_task_on_any_node(tree):
    manifests = render("with-kueue", tree)
    behind = named(manifests, "ClusterQueue", named(manifests, "LocalQueue", CPU_QUEUE)["spec"]["clusterQueue"])
    assert behind != named(manifests, "ClusterQueue", named(manifests, "LocalQueue", QUEUE)["spec"]["clusterQueue"])
    assert selects(behind["spec"]["namespaceSelector"], {"kubernetes.io/metadata.name": NAMESPACE})
    [flavor] = behind["spec"]["resourceGroups"][0]["flavors"]
    assert "nodeLabels" not in named(manifests, "ResourceFlavor", flavor["name"])["spec"]
    quota = {each["name"]: _number(each["nominalQuota"]) for each in flavor["resources"]}
    waiting = {stage for stage in PLACEMENT if queue(stage, ClusterConfig()) == CPU_QUEUE}
    assert waiting == {"discover", "prepare_corpus", "retrieve", "export", "promote"}
    assert {queue(stage, ClusterConfig(gpus=0)) for stage in PLACEMENT} == {CPU_QUEUE, ""}
    for row in (PLACEMENT[stage] for stage in waiting):
        assert _number(row.cpu) <= quota["cpu"] and _number(row.memory) <= quota["memory"]


# Documentation

PAGES = [K8S / "README.md", ROOT / "docs" / "cluster.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_and_overlays_that_exist(page):
    text = page.read_text()
    for path in re.findall(r"(?<![\w/])((?:k8s|images|docs|pipelines|src)/[\w./-]*\w)", text):
        assert path == "images/images.lock" or (ROOT / path).exists(), path
    for overlay in re.findall(r"OVERLAY=([a-z-]+)", text):
        assert overlay in [*OVERLAYS, "kfp-standalone"], overlay
    for component in re.findall(r"components/([a-z0-9-]+)", text):
        assert component in COMPONENTS or (ROOT / "components" / component).exists(), component


def test_the_readme_lists_every_overlay_and_component():
    text = (K8S / "README.md").read_text()
    for name in (*(f"overlays/{each}" for each in OVERLAYS), *(f"components/{each}" for each in COMPONENTS)):
        assert f"`{name}`" in text, name
