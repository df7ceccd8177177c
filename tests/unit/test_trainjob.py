"""A training over two machines by a TrainJob: the model of one machine with two processes, and what can go wrong.

Kubeflow Trainer does not run here. In its place stands a server with its API that starts what a TrainJob says, a process for
each machine with the variables that Trainer sets, which train together through gloo.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import torch

from inranker_flow.distillation import trainjob
from inranker_flow.distillation.trainjob import Asked
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.preflight.checks import Skipped
from inranker_flow.preflight.pool import Need, check_trainer
from inranker_flow.rankers.checkpoints import load_seq2seq
from inranker_flow.services import kubernetes
from inranker_flow.services.kubernetes import Cluster
from inranker_flow.stages.distill import distill
from tests import models
from tests.http_server import LoopbackServer
from tests.refusals import refuses
from tests.servers import free_ports
from tests.unit.test_distillation import CONFIG, killed, training_set

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-a/trainjobs"
ASKED = Asked(2, "registry/inranker-flow-train:tag", "2", "4Gi", queue="inranker-cpu")


class Trainer(LoopbackServer):
    """The API of Kubernetes, as much as a training asks of it, with Kubeflow Trainer behind it."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.installed, self.forbidden = True, False
        #: How the machines end where they are not to be started.
        self.condition: dict[str, str] = {}
        self._machines: list[subprocess.Popen[bytes]] = []
        super().__init__(_handler(self))

    def start(self, job: dict[str, Any]) -> None:
        """A process for each machine, with the variables that Trainer's torch runtime sets."""
        self.created.append(job)
        trainer = job["spec"]["trainer"]
        if self.condition:
            return
        (port,) = free_ports(1)
        for number in range(trainer["numNodes"]):
            environment = {
                **{key: value for key, value in os.environ.items() if key != variables.NODES},
                "PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(number), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port),
                "INRANKER_SCRATCH": str(self.folder / f"machine-{number}"), "GLOO_SOCKET_IFNAME": "lo",
            }  # fmt: skip
            with (self.folder / f"{number}.log").open("wb") as log:
                command = [sys.executable, *trainer["command"][1:]]
                self._machines.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))

    def conditions(self) -> list[dict[str, str]]:
        """What the TrainJob says of itself."""
        if self.condition:
            return [self.condition]
        ended = [each.poll() for each in self._machines]
        if any(ended):
            return [{"type": "Failed", "status": "True", "reason": "JobFailed", "message": "a machine ended with 2"}]
        return [{"type": "Complete", "status": "True"}] if ended == [0] * len(ended) else []

    def end(self) -> None:
        """As Kubernetes does with a TrainJob that is deleted."""
        for each in self._machines:
            each.kill()
            each.wait()


def _handler(server: Trainer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _say(self, status: int, body: Any) -> None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == JOBS
            status = 404 if not server.installed else 403 if server.forbidden else 201
            if status == 201:
                server.start(body)
            self._say(status, body)

        def do_GET(self) -> None:
            if self.path.startswith("/api/v1/namespaces/team-a/pods?"):
                self._say(200, {"items": [{"metadata": {"name": "node-0-0"}}]})
            elif "/log?" in self.path:
                file = server.folder / "0.log"
                self._say(200, file.read_text() if file.exists() else "")
            elif self.path.startswith("/api/v1/namespaces/team-a/pods/"):
                self._say(200, {"metadata": {"name": self.path.rpartition("/")[2], "uid": "42"}})
            elif self.path.startswith(JOBS):
                self._say(200, {"status": {"conditions": server.conditions()}})
            elif self.path == "/apis/trainer.kubeflow.org/v1alpha1" and server.installed:
                self._say(200, {"resources": []})
            else:
                self._say(404, {})

        def do_DELETE(self) -> None:
            server.deleted.append(self.path)
            server.end()
            self._say(200, {})

    return Handler


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(trainjob, "PAUSE", 0.1)
    monkeypatch.setattr(kubernetes, "namespace", lambda: "team-a")
    with Trainer(tmp_path) as server:
        monkeypatch.setattr(kubernetes, "of_this_pod", lambda: Cluster(server.url, "token"))
        yield server
        server.end()


@pytest.fixture
def config():
    return replace(CONFIG, checkpoint=models.t5(seed=1), max_steps=12, micro_batch_tokens=100)


def asks(monkeypatch):
    monkeypatch.setenv(variables.NODES, json.dumps(ASKED.__dict__))


def read(folder):
    record = json.loads((folder / "training.json").read_text())
    return [record[key] for key in ("train_loss", "looks", "best_step", "sets")], load_seq2seq(str(folder))[0]


@pytest.mark.long
def test_two_machines_of_a_trainjob_give_what_two_processes_of_one_give(tmp_path, trainer, config, monkeypatch):
    sets, replay = [training_set(tmp_path / "labels")], None
    distill(replace(config, processes=2), sets, None, tmp_path / "one", replay)
    asks(monkeypatch)
    stats = distill(config, sets, None, tmp_path / "two", replay)
    (one, student), (two, other) = read(tmp_path / "one"), read(tmp_path / "two")
    assert one == two and stats.steps == 12
    for (name, weight), (_, same) in zip(student.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(weight, same), name
    [job] = trainer.created
    assert trainer.deleted == [f"{JOBS}/{job['metadata']['name']}"]
    assert not [each for each in (tmp_path / "store").rglob("*") if each.is_file()], "what was exchanged is gone"
    assert job["metadata"]["ownerReferences"][0]["uid"] == "42", "it goes with the pod that made it"
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "inranker-cpu"}


@pytest.mark.long
def test_the_machines_of_the_next_job_go_on_where_those_of_a_lost_one_were(tmp_path, trainer, config, monkeypatch):
    """Each machine is new, as its scratch is: all of them fetch the checkpoint, or they would not agree on the step.

    The stage's own pod has no GPU, so `auto` is another precision there.
    """
    monkeypatch.setattr("inranker_flow.stages.distill.conditions", lambda stage: {"auto": "of a CPU"})
    labels = training_set(tmp_path / "labels")
    config = replace(config, max_steps=60, save_every=15)
    killed(config, labels, tmp_path, "lost-machine")
    asks(monkeypatch)
    stats = distill(config, [labels], None, tmp_path / "two")
    assert (stats.resumed_step, stats.steps) == (30, 60)
    assert re.search(r"checkpoint after step 30 fetched from \S+/unfinished/distill/", (tmp_path / "0.log").read_text())
    assert not [each for each in (tmp_path / "store").rglob("*") if each.is_file()], "the stage is done"


@pytest.mark.long
def test_what_a_machine_refuses_is_the_stages_line_and_the_job_is_deleted(tmp_path, trainer, config, monkeypatch):
    asks(monkeypatch)
    huge = training_set(tmp_path / "labels", level=1e30)
    with pytest.raises(UserError, match="held-out loss is inf before the first step"):
        distill(replace(config, centre=False), [huge], None, tmp_path / "model")
    assert len(trainer.deleted) == 1 and not (tmp_path / "model").exists()


def test_a_job_that_fails_without_a_word_says_what_kubernetes_says(tmp_path, trainer, config, monkeypatch):
    asks(monkeypatch)
    trainer.condition = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    with refuses("trainjob-failed"):
        distill(config, [training_set(tmp_path / "labels")], None, tmp_path / "model")
    assert len(trainer.deleted) == 1


@pytest.mark.parametrize(
    ("installed", "line"),
    [
        (False, r"Kubeflow Trainer is not installed in this cluster \(there is no trainer.kubeflow.org/v1alpha1\)"),
        (True, r"the service account may not create TrainJobs \(HTTP 403\); add the component trainer"),
    ],
)
def test_a_cluster_that_takes_no_trainjob(tmp_path, trainer, config, monkeypatch, installed, line):
    asks(monkeypatch)
    trainer.installed, trainer.forbidden = installed, True
    with pytest.raises(UserError, match=line):
        distill(config, [training_set(tmp_path / "labels")], None, tmp_path / "model")


def test_a_stage_that_is_told_to_end_takes_its_job_with_it(trainer):
    trainer.condition = {"type": "Suspended", "status": "True"}
    job = trainjob.manifest(ASKED, "inranker-distill-1", "s3://b/t", None)
    with pytest.raises(SystemExit), trainjob._created(Cluster(trainer.url, ""), "team-a", job):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert trainer.deleted == [f"{JOBS}/inranker-distill-1"]


def test_outside_of_a_cluster_or_without_a_store_it_is_refused(tmp_path, trainer, config, monkeypatch):
    asks(monkeypatch)
    monkeypatch.setattr(kubernetes, "of_this_pod", lambda: None)
    labels = training_set(tmp_path / "labels")
    with refuses("cluster-absent"):
        distill(config, [labels], None, tmp_path / "model")
    monkeypatch.setenv("INRANKER_STORE", "off")
    with refuses("store-off", "INRANKER_STORE"):
        distill(config, [labels], None, tmp_path / "model")


def test_preflight_says_what_a_training_over_several_machines_lacks(trainer):
    need = Need("evaluate", "8", "32Gi", "inranker-gpu", nodes=2)
    with pytest.raises(Skipped):
        check_trainer(replace(need, nodes=1))
    with pytest.raises(UserError, match=r"cluster\.nodes 2: namespace team-a has no TrainingRuntime inranker-distill"):
        check_trainer(need)
    trainer.installed = False
    with pytest.raises(UserError, match=r"cluster\.nodes 2: Kubeflow Trainer 2 is not installed"):
        check_trainer(need)


def test_the_manifest_asks_for_the_machines_of_the_profile():
    asked = Asked(4, "image@sha256:0", "8", "32Gi", "nvidia.com/gpu", 2, "inranker-gpu")
    spec = trainjob.manifest(asked, "inranker-distill-1", "s3://b/t", {"name": "pod", "uid": "1"})["spec"]
    size = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert spec == {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "inranker-distill"},
        "trainer": {
            "image": "image@sha256:0",
            "command": ["python3", "-m", "inranker_flow.distillation.node", "s3://b/t"],
            "numNodes": 4,
            "numProcPerNode": 2,
            "resourcesPerNode": {"requests": size, "limits": size},
        },
    }
    assert shutil.which("python3"), "what the command begins with"
