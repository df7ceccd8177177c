"""Every environment variable that this project reads, one function for each, read when it is called.

An empty variable counts as one that is not set. Nothing else of the project touches ``os.environ`` (see also
:mod:`.changes` and :mod:`.mounted`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

#: Names that are written, too, or stand in messages.
RUN_FILE, EVENTS, PARENT_RUN = "INRANKER_RUN_FILE", "INRANKER_EVENTS", "INRANKER_PARENT_RUN_ID"
STAGE_RUN = "INRANKER_STAGE_RUN_ID"
WORKERS, NODES, SECRET_NAMES = "INRANKER_WORKERS", "INRANKER_NODES", "INRANKER_SECRET_NAMES"
STORE, SCRATCH, CACHE = "INRANKER_STORE", "INRANKER_SCRATCH", "INRANKER_CACHE"
ARTIFACT_ROOT, CODE_VERSION = "INRANKER_ARTIFACT_ROOT", "INRANKER_CODE_VERSION"
TRACKING_URI = "MLFLOW_TRACKING_URI"
ENDPOINT_KEY, TEACHER_KEY, SEARCH_KEY = "OPENAI_API_KEY", "TEACHER_API_KEY", "SEARCH_API_KEY"


def everything() -> Mapping[str, str]:
    """Return the whole environment, for a child or to look for secrets in it."""
    return os.environ


def _text(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


# --- where things are -------------------------------------------------------------------------------------------------


def store() -> str:
    """Return ``INRANKER_STORE``: folder or prefix of what is kept by content, "off", or ""."""
    return _text(STORE)


def store_root() -> str:
    """Return the folder or prefix that ``INRANKER_STORE`` names; "" where there is none ("off")."""
    uri = store().rstrip("/")
    return "" if uri.lower() == "off" else uri


def scratch() -> Path:
    """Return ``INRANKER_SCRATCH``: the folder of unfinished work."""
    return Path(_text(SCRATCH) or Path(tempfile.gettempdir(), "inranker-scratch"))


def cache() -> Path:
    """Return ``INRANKER_CACHE``: the folder of downloads."""
    return Path(_text(CACHE) or Path(tempfile.gettempdir(), "inranker-cache"))


def artifacts() -> str:
    """Return ``INRANKER_ARTIFACTS``: the prefix that artifacts are moved to, or "" where they stay."""
    return _text("INRANKER_ARTIFACTS").rstrip("/")


def artifact_root() -> str | None:
    """Return ``INRANKER_ARTIFACT_ROOT``: where a new experiment in a database keeps its files."""
    return _text(ARTIFACT_ROOT) or None


# --- the run ----------------------------------------------------------------------------------------------------------


def code_version() -> str:
    """Return ``INRANKER_CODE_VERSION``: the image's content tag, as KFP or `make run` says it; else the package version."""
    from inranker_flow import __version__

    return _text(CODE_VERSION, __version__)


def git_revision() -> str:
    """Return ``INRANKER_GIT_REVISION``: the commit of the sources."""
    return _text("INRANKER_GIT_REVISION")


def run_file() -> str:
    """Return ``INRANKER_RUN_FILE``: the file whose lock the local run holds that this process belongs to."""
    return _text(RUN_FILE)


def events() -> str:
    """Return ``INRANKER_EVENTS``: the file that a local run's stages add their lines to."""
    return _text(EVENTS)


def kfp_run() -> str:
    """Return ``INRANKER_KFP_RUN_ID``: the KFP run that this pod is of."""
    return _text("INRANKER_KFP_RUN_ID")


def parent_run() -> str:
    """Return ``INRANKER_PARENT_RUN_ID``: the MLflow run that a local run's stages are children of."""
    return _text(PARENT_RUN)


def stage_run() -> str:
    """Return ``INRANKER_STAGE_RUN_ID``: the MLflow run of the stage that this process works for, where another began it."""
    return _text(STAGE_RUN)


def workers() -> str:
    """Return ``INRANKER_WORKERS``: pods that share a collection's work, as it is written."""
    return os.environ.get(WORKERS, "1")


def training_nodes() -> str:
    """Return ``INRANKER_NODES``: JSON of what the training asks of several machines."""
    return _text(NODES)


def secret_names() -> frozenset[str]:
    """Return ``INRANKER_SECRET_NAMES``: the variables whose values are secrets."""
    return frozenset(_text(SECRET_NAMES).split(",")) - {""}


def webhook() -> str:
    """Return ``INRANKER_WEBHOOK_URL``: where `notify` sends its message. It is a secret."""
    return _text("INRANKER_WEBHOOK_URL")


def registry() -> str:
    """Return ``INRANKER_REGISTRY``: where images are pushed to; localhost means nowhere."""
    return _text("INRANKER_REGISTRY", "localhost")


def docker_network() -> str:
    """Return ``INRANKER_DOCKER_NETWORK``: the network of a local run's containers."""
    return _text("INRANKER_DOCKER_NETWORK", "host")


# --- MLflow -----------------------------------------------------------------------------------------------------------


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``: the server or database."""
    return _text(TRACKING_URI)


def experiment() -> str:
    """Return ``MLFLOW_EXPERIMENT_NAME``: the experiment that runs are in."""
    return _text("MLFLOW_EXPERIMENT_NAME", "inranker")


def follows_redirects() -> bool:
    """Return whether ``MLFLOW_ALLOW_HTTP_REDIRECTS`` lets MLflow's client follow a redirection."""
    return os.environ.get("MLFLOW_ALLOW_HTTP_REDIRECTS") != "false"


def injected_experiment() -> str:
    """Return ``MLFLOW_EXPERIMENT_ID``, which KFP's MLflow plugin sets."""
    return _text("MLFLOW_EXPERIMENT_ID")


def injected_run() -> str:
    """Return ``MLFLOW_RUN_ID``, the run that KFP's MLflow plugin began for this task."""
    return _text("MLFLOW_RUN_ID")


# --- Kubeflow Pipelines and Kubernetes --------------------------------------------------------------------------------


def kfp_endpoint() -> str:
    """Return ``KF_PIPELINES_ENDPOINT``: the address of KFP's API."""
    return _text("KF_PIPELINES_ENDPOINT")


def kfp_ui() -> str:
    """Return ``KF_PIPELINES_UI_ENDPOINT``: the address of KFP's pages."""
    return _text("KF_PIPELINES_UI_ENDPOINT").rstrip("/")


def kfp_namespace() -> str:
    """Return ``KF_PIPELINES_NAMESPACE``: where KFP itself is installed."""
    return _text("KF_PIPELINES_NAMESPACE", "kubeflow")


def kfp_root() -> str:
    """Return ``KF_PIPELINES_ROOT``: where KFP puts artifacts."""
    return _text("KF_PIPELINES_ROOT")


def kfp_archive() -> str:
    """Return ``KF_PIPELINES_ARCHIVE``: where Argo keeps logs."""
    return _text("KF_PIPELINES_ARCHIVE")


def kfp_cookies() -> str:
    """Return ``KF_PIPELINES_COOKIES``: cookies of a log-in, for KFP's API."""
    return os.environ.get("KF_PIPELINES_COOKIES", "")


def kfp_token() -> str:
    """Return ``KF_PIPELINES_TOKEN``: a token for KFP's API."""
    return _text("KF_PIPELINES_TOKEN")


def kfp_token_file() -> str:
    """Return ``KF_PIPELINES_TOKEN_FILE``, or ``KF_PIPELINES_SA_TOKEN_PATH``: the file with a token for KFP's API."""
    return _text("KF_PIPELINES_TOKEN_FILE") or kfp_pod_token_file()


def kfp_pod_token_file() -> str:
    """Return ``KF_PIPELINES_SA_TOKEN_PATH``: the file with the pod's token for KFP's API."""
    return _text("KF_PIPELINES_SA_TOKEN_PATH")


def in_cluster() -> bool:
    """Return whether this is a pod: Kubernetes sets ``KUBERNETES_SERVICE_HOST``."""
    return bool(_text("KUBERNETES_SERVICE_HOST"))


def kubernetes_api() -> tuple[str, str]:
    """Return ``KUBERNETES_SERVICE_HOST`` and ``KUBERNETES_SERVICE_PORT``: the cluster's API, from a pod."""
    return _text("KUBERNETES_SERVICE_HOST"), _text("KUBERNETES_SERVICE_PORT", "443")


def kubeconfig() -> str:
    """Return ``KUBECONFIG``: paths of configurations of Kubernetes' clients."""
    return _text("KUBECONFIG", str(Path.home() / ".kube" / "config"))


def docker_config() -> Path:
    """Return ``DOCKER_CONFIG``: the folder with what `docker login` stored."""
    return Path(_text("DOCKER_CONFIG") or Path.home() / ".docker")


# --- S3, the hub and other servers ------------------------------------------------------------------------------------


def aws_region() -> str | None:
    """Return ``AWS_REGION``, as AWS' other programs have it; boto3 knows ``AWS_DEFAULT_REGION`` alone."""
    return _text("AWS_REGION") or None


def has_own_s3() -> bool:
    """Return whether ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` names a server other than AWS' own."""
    return bool(_text("AWS_ENDPOINT_URL_S3") or _text("AWS_ENDPOINT_URL"))


def hub() -> str:
    """Return ``HF_ENDPOINT``: the hub's address."""
    return _text("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_token() -> str:
    """Return ``HF_TOKEN``: a token for the hub."""
    return _text("HF_TOKEN")


def hub_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` says that the hub is not asked."""
    return _text("HF_HUB_OFFLINE").upper() in ("1", "ON", "YES", "TRUE")


def hub_cache() -> Path:
    """Return ``HF_HUB_CACHE``, which is below ``HF_HOME`` where it is not set: downloads from the hub."""
    home = _text("HF_HOME") or Path(os.environ.get("HOME", "/"), ".cache", "huggingface")
    return Path(_text("HF_HUB_CACHE") or Path(home, "hub"))


def endpoint_key() -> str:
    """Return ``OPENAI_API_KEY``: the key of the server that writes queries."""
    return _text(ENDPOINT_KEY)


def teacher_key() -> str:
    """Return ``TEACHER_API_KEY``: the key of the server that scores pairs."""
    return _text(TEACHER_KEY)


def search_key() -> str:
    """Return ``SEARCH_API_KEY``: the key of the index that is the first stage, perhaps with its kind before it
    (``ApiKey``, ``Basic``)."""
    return _text(SEARCH_KEY)


def certificates() -> str:
    """Return ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``: file or folder of trusted certificates."""
    return _text("REQUESTS_CA_BUNDLE") or _text("CURL_CA_BUNDLE")


def certificate_file() -> str | None:
    """Return ``SSL_CERT_FILE``: the file of trusted certificates."""
    return _text("SSL_CERT_FILE") or None


# --- processes of one training ----------------------------------------------------------------------------------------


def threads_are_set() -> bool:
    """Return whether ``OMP_NUM_THREADS`` says how many threads a process has."""
    return "OMP_NUM_THREADS" in os.environ


def accelerate_uses(name: str) -> bool:
    """Return whether ``ACCELERATE_USE_NAME`` says that accelerate started this process in that way."""
    return _text(f"ACCELERATE_USE_{name}").lower() == "true"


def started_together() -> bool:
    """Return whether a launcher started this process as one of several (``WORLD_SIZE``, ``RANK``)."""
    return int(_text("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_first() -> bool:
    """Return whether this is the first of all processes (``RANK``)."""
    return _text("RANK", "0") == "0"


def is_first_here() -> bool:
    """Return whether this is the first process on its machine (``LOCAL_RANK``)."""
    return _text("LOCAL_RANK", "0") == "0"


def processes_here(default: int) -> int:
    """Return ``LOCAL_WORLD_SIZE``: how many processes of a training a launcher started on this machine."""
    return int(_text("LOCAL_WORLD_SIZE", str(default)))


def nodes() -> int:
    """Return ``PET_NNODES``: machines of this training, as Kubeflow Trainer tells each of them; 1 without."""
    return int(_text("PET_NNODES", "1"))


def node() -> str:
    """Return ``PET_NODE_RANK``: the number of this machine."""
    return _text("PET_NODE_RANK", "0")


def python_path() -> str:
    """Return ``PYTHONPATH``: folders of modules."""
    return os.environ.get("PYTHONPATH", "")
