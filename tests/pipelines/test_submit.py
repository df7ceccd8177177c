"""`make submit` against the KFP API: once, whatever happens on the way."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import follow, kfp_api, release, submit
from pipelines.compile import compile_pipeline, read
from tests.kfp_api import Fault, KfpApi
from tests.kubernetes_api import KubernetesApi

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "src" / "inranker_flow" / "demo" / "models" / "teacher"
OPTIONS = ["inranker", "--profile", "demo", "--namespace", "team-a"]


def failure(capsys, *more: str) -> str:
    """The one line of a submission that is refused."""
    assert submit.main([*OPTIONS, *more]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("FAILED: ")
    return lines[0]


def task(name: str, state: str, **more) -> dict:
    return {"task_id": f"id-{name}", "display_name": name, "state": state, **more}


def test_a_first_submit_creates_everything_once(server, capsys):
    assert submit.main(OPTIONS) == 0
    (run,) = server.runs.values()
    (pipeline,) = server.pipelines.values()
    (version,) = server.versions.values()
    (experiment,) = server.experiments.values()
    assert pipeline["namespace"] == experiment["namespace"] == "team-a"
    assert version["name"].startswith("inranker-")
    assert run["pipeline_version_reference"] == {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert run["service_account"] == "inranker-runner"
    assert run["display_name"].startswith("inranker-demo-")
    assert run["runtime_config"]["parameters"]["values"]["source"]["uri"].startswith("demo:")
    assert f"{server.url}/#/runs/details/{run['run_id']}" in capsys.readouterr().out


def test_the_command_starts_one_run_and_prints_its_link(server):
    command = [sys.executable, "-m", "inranker_flow", "submit", *OPTIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "/#/runs/details/" in done.stdout
    assert len(server.runs) == 1


def test_caching_stays_as_it_was_compiled(server):
    assert submit.main(OPTIONS) == 0
    (version,) = server.versions.values()
    tasks = version["pipeline_spec"]["pipeline_spec"]["components"]
    cached = {
        name: each.get("cachingOptions", {}).get("enableCache", False)
        for component in tasks.values()
        for name, each in component.get("dag", {}).get("tasks", {}).items()
    }
    assert cached["teacher-label"]
    assert not cached["preflight"]


def test_a_second_submit_while_the_run_is_going_creates_nothing(server, capsys):
    assert submit.main(OPTIONS) == 0
    (run,) = server.runs.values()
    for state in ("PENDING", "RUNNING", "CANCELING", "PAUSED"):
        server.set_run(run["run_id"], state=state)
        assert f"the same run is {state} already: {run['display_name']}" in failure(capsys)
    assert len(server.runs) == len(server.versions) == len(server.pipelines) == len(server.experiments) == 1


def test_force_starts_the_same_run_once_more(server):
    assert submit.main(OPTIONS) == 0
    assert submit.main([*OPTIONS, "--force"]) == 0
    first, second = (run["display_name"] for run in server.runs.values())
    assert first != second and first.split("-")[:3] == second.split("-")[:3]
    assert len(server.versions) == 1


def test_a_finished_run_may_be_submitted_again(server):
    assert submit.main(OPTIONS) == 0
    (run,) = server.runs.values()
    server.set_run(run["run_id"], state="FAILED")
    assert submit.main(OPTIONS) == 0
    assert len(server.runs) == 2


def test_other_arguments_are_another_run_of_the_same_version(server):
    assert submit.main(OPTIONS) == 0
    assert submit.main([*OPTIONS, "--seed", "9"]) == 0
    assert len(server.runs) == 2
    assert len({run["display_name"] for run in server.runs.values()}) == 2
    assert len(server.versions) == 1


def test_a_changed_pipeline_is_another_version_of_the_same_pipeline(server, use_registry, registry):
    assert submit.main(OPTIONS) == 0
    use_registry(f"{registry.name}/other")
    assert submit.main([*OPTIONS, "--seed", "9"]) == 0
    assert len(server.pipelines) == 1
    assert len(server.versions) == 2


def test_the_version_does_not_depend_on_the_order_in_which_the_compiler_writes(tmp_path):
    documents = read(compile_pipeline("inranker", tmp_path / "p.yaml"))
    turned = [dict(reversed(each.items())) for each in documents]
    assert release.digest(turned) == release.digest(documents)
    assert release.digest([{**documents[0], "sdkVersion": "kfp-9"}, documents[1]]) == release.digest(documents)
    changed = json.loads(json.dumps(documents))
    changed[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-evaluate"]["imagePullPolicy"] = "Always"
    assert release.digest(changed) != release.digest(documents)


CREATES = (
    "PipelineService_CreatePipeline",
    "UploadPipelineVersion",
    "ExperimentService_CreateExperiment",
    "RunService_CreateRun",
)


@pytest.mark.parametrize("operation", CREATES)
@pytest.mark.parametrize(
    "fault",
    [Fault(500), Fault(500, commits=True), Fault(503), Fault(0), Fault(0, commits=True)],
    ids=["500", "500-after-commit", "503", "lost", "lost-after-commit"],
)
def test_a_create_call_that_fails_midway_is_done_once(server, operation, fault):
    server.fail_next(operation, fault)
    assert submit.main(OPTIONS) == 0
    assert len(server.runs) == len(server.versions) == len(server.pipelines) == len(server.experiments) == 1


@pytest.mark.parametrize("operation", CREATES)
def test_a_create_call_without_an_answer_in_time_is_done_once(server, operation, monkeypatch):
    send = kfp_api.Api._send

    def impatient(self: kfp_api.Api, function, *args, **where):
        """Wait shortly for this one answer alone: a busy machine may take its time for the others."""
        with monkeypatch.context() as patch:
            if function.__name__.replace("_", "") == operation.replace("_", "").lower():
                patch.setattr(kfp_api, "TIMEOUT", (4, 0.3))
            return send(self, function, *args, **where)

    monkeypatch.setattr(kfp_api.Api, "_send", impatient)
    server.fail_next(operation, Fault(0, commits=True, silent=True))
    assert submit.main(OPTIONS) == 0
    assert len(server.runs) == len(server.versions) == len(server.pipelines) == len(server.experiments) == 1


@pytest.mark.parametrize("operation", CREATES[:3])
def test_somebody_else_who_was_first_is_no_failure(server, operation):
    """The name is free when it is looked up, taken when it is created: 409."""
    server.fail_next(operation, Fault(409, commits=True))
    assert submit.main(OPTIONS) == 0
    assert len(server.runs) == len(server.versions) == len(server.pipelines) == len(server.experiments) == 1


@pytest.mark.parametrize("fault", [Fault(0, commits=True), Fault(0), Fault(500)])
def test_a_forced_run_whose_answer_is_lost_is_not_mistaken_for_the_one_before(server, capsys, fault):
    assert submit.main(OPTIONS) == 0
    (first,) = server.runs
    server.fail_next("RunService_CreateRun", fault)
    capsys.readouterr()
    assert submit.main([*OPTIONS, "--force"]) == 0
    (second,) = set(server.runs) - {first}
    assert f"({second})" in capsys.readouterr().out


def test_many_submitters_at_once_share_pipeline_version_and_experiment(server, tmp_path):
    api = kfp_api.Api(server.url, "team-a")
    (tmp_path / "p.yaml").write_text(compile_pipeline("inranker", tmp_path / "q.yaml").read_text())
    found = []

    def one() -> None:
        mine = kfp_api.Api(server.url, "team-a")
        pipeline = mine.pipeline("inranker", "")
        found.append((pipeline, mine.version(pipeline, "v1", tmp_path / "p.yaml")[0], mine.experiment("e")))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(server.pipelines) == len(server.versions) == len(server.experiments) == 1
    assert api.find_experiment("e") == found[0][2]


def test_a_server_that_stays_broken_is_said_in_one_line(server, capsys):
    server.fail_next("RunService_CreateRun", *[Fault(500)] * 5)
    assert "cannot be created: the server answers 500: injected" in failure(capsys)
    server.fail_next("HealthzService_GetHealthz", *[Fault(502)] * 5)
    assert "the server answers 502" in failure(capsys)
    assert not server.runs


def test_a_hiccup_of_a_question_is_asked_again(server):
    server.fail_next("HealthzService_GetHealthz", Fault(503))
    server.fail_next("RunService_ListRuns", Fault(0))
    server.fail_next("ExperimentService_ListExperiments", Fault(500), Fault(500))
    assert submit.main(OPTIONS) == 0
    assert len(server.runs) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


def nothing_created(server: KfpApi) -> bool:
    return not (server.pipelines or server.versions or server.experiments or server.runs)


def test_an_api_that_nobody_serves_is_said_in_seconds(server, capsys, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    line = failure(capsys)
    assert "http://127.0.0.1:9: nobody answers" in line
    assert "Connection refused" in line


def test_a_silent_api_is_said_in_one_line(server, capsys, monkeypatch):
    monkeypatch.setattr(kfp_api, "TIMEOUT", (4, 0.2))  # the server never answers: the real one waits a minute
    server.fail_next("HealthzService_GetHealthz", *[Fault(0, silent=True)] * 3)
    assert "no answer" in failure(capsys)


def test_no_way_to_an_api_is_said_in_one_line(server, capsys, monkeypatch):
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert "KF_PIPELINES_ENDPOINT is not set" in failure(capsys)


@pytest.mark.parametrize(("host", "reason"), [("ftp://x", "not an address"), ("https://", "not an address")])
def test_an_address_that_is_none_is_refused(server, capsys, host, reason):
    assert reason in failure(capsys, "--host", host)


def test_a_wrong_path_in_the_address_is_recognised(server, capsys):
    assert "no KFP API at this address (404)" in failure(capsys, "--host", f"{server.url}/pipeline")


def test_a_wrong_namespace_is_refused(server, capsys):
    line = failure(capsys, "--namespace", "team-b")
    assert "NAMESPACE=team-b" in line
    assert "inranker-submitter" in line
    assert nothing_created(server)


def test_an_expired_token_says_how_to_renew_it(server, capsys, monkeypatch):
    server.expired = ("expired-secret",)
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "expired-secret")
    line = failure(capsys)
    assert "does not know who asks (401)" in line
    assert "kubectl create token" in line
    assert "expired-secret" not in line
    assert nothing_created(server)


def test_a_login_page_is_recognised(server, capsys, monkeypatch):
    server.login = True
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    assert "does not know who asks (302)" in failure(capsys)


def test_an_unknown_key_is_refused_before_anything_is_asked(server, capsys):
    assert "phase1.learnig_rate: unknown key" in failure(capsys, "--set", "phase1.learnig_rate=1")
    assert server.calls == []


def test_arguments_that_the_pipeline_does_not_take_are_refused(tmp_path):
    spec, _ = read(compile_pipeline("inranker", tmp_path / "p.yaml"))
    with pytest.raises(release.UserError, match="the pipeline inranker has no parameter champion"):
        release.check_arguments(spec, {"champion": "x"})


def test_too_many_bytes_of_arguments_are_refused_before_anything_is_asked(server, capsys):
    targets = ",".join(f"ir_datasets:collection-{i}-{'x' * 60}" for i in range(80))
    line = failure(capsys, "--targets", targets)
    assert "KFP takes 10,000; the largest is targets" in line
    assert server.calls == []


@pytest.mark.parametrize(
    ("more", "where"),
    [
        (["--source", "FOLDER"], "source: "),
        (["--targets", "demo:target/1,FOLDER"], "targets[1]: "),
        (["--set", "source.labels=inranker-msmarco:FOLDER/labels.tsv"], "source.labels: "),
        (["--teacher", "FOLDER"], "teacher.checkpoint: "),
        (["--set", "teacher.also=[{checkpoint: FOLDER}]"], "teacher.also[0].checkpoint: "),
        (["--generator", "FOLDER"], "generation.checkpoint: "),
        (["--student", "init:mini?tokenizer=FOLDER"], "phase1.checkpoint: "),
        (["--teacher", "~/model"], "teacher.checkpoint: "),
        (
            [
                "--set",
                "generation.backend=openai",
                "--set",
                "generation.endpoint=http://vllm:8000/v1",
                "--set",
                "generation.tokenizer=FOLDER",
            ],
            "generation.tokenizer: ",
        ),
    ],
)
def test_what_lies_on_this_machine_is_refused(server, capsys, tmp_path, more, where):
    folder = tmp_path / "mine"
    shutil.copytree(TEACHER, folder)
    line = failure(capsys, *(each.replace("FOLDER", str(folder)) for each in more))
    assert where in line
    assert "no pod can read" in line
    assert server.calls == []


def test_a_relative_folder_is_a_folder_and_not_a_hub_id(server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TEACHER, tmp_path / "models" / "teacher")
    assert "teacher.checkpoint: models/teacher: a folder" in failure(capsys, "--teacher", "models/teacher")


def test_more_gpus_than_a_node_has_are_refused(server, capsys):
    line = failure(capsys, "--set", "cluster.gpus=4", "--set", "cluster.node_gpus=2")
    assert "cluster.gpus 4" in line
    assert server.calls == []


def test_without_a_registry_nothing_is_submitted(server, capsys, use_registry):
    use_registry("")
    assert "set REGISTRY=HOST/PATH" in failure(capsys)
    assert server.calls == []


def test_an_image_that_is_not_pushed_is_named(server, capsys, registry):
    registry.everything = False
    line = failure(capsys)
    assert f"image {registry.name}/search/inranker-flow-" in line
    assert f"make push REGISTRY={registry.name}/search" in line
    assert server.calls == []


# --- who asks, and where ----------------------------------------------------------------------------------------------


def test_a_token_file_is_read_anew_for_each_call(server, tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("good\n")
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    api = kfp_api.Api("", "team-a")
    assert api.multi_user
    server.token = "renewed"
    with pytest.raises(kfp_api.UserError, match="401"):
        api.find_experiment("x")
    path.write_text("renewed")
    assert api.find_experiment("x") == ""


def test_a_pod_asks_kfps_service_with_its_projected_token(surroundings, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("projected")
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    monkeypatch.delenv("KF_PIPELINES_TOKEN", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    api = kfp_api.Api("", "team-a")
    assert api.host == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    assert api._client.configuration.auth_settings()["Bearer"]["value"] == "Bearer projected"


@pytest.mark.parametrize("name", ["KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIES", "KF_PIPELINES_TOKEN_FILE"])
def test_a_token_of_two_lines_is_refused_and_not_repeated(server, tmp_path, capsys, monkeypatch, name):
    (tmp_path / "token").write_bytes(b"one\nano\xffther\n")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "")
    monkeypatch.setenv(name, str(tmp_path / "token") if name.endswith("FILE") else "one\nother")
    line = failure(capsys)
    assert line.startswith(f"FAILED: {name}: ") and "holds a line break" in line
    assert "other" not in line.replace("another sign", "")


def test_an_address_with_a_blank_is_none(server, capsys):
    assert "not an address of the form" in failure(capsys, "--host=http://a b")


def test_a_token_file_that_is_missing_is_said(server, capsys, monkeypatch):
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    monkeypatch.setenv("KF_PIPELINES_TOKEN_FILE", "/no/token")
    assert "/no/token: no such file" in failure(capsys)


def test_a_session_cookie_is_enough(server, monkeypatch):
    server.login, server.cookies = True, ("authservice_session=abc",)
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    monkeypatch.setenv("KF_PIPELINES_COOKIES", "authservice_session=abc")
    assert submit.main(OPTIONS) == 0
    assert len(server.runs) == 1


def test_the_option_wins_over_the_environment(server, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    assert submit.main([*OPTIONS, "--host", server.url]) == 0


def test_links_go_to_the_ui(server, capsys, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/_/pipeline")
    assert submit.main(OPTIONS) == 0
    assert "https://kubeflow.example.com/_/pipeline/#/runs/details/" in capsys.readouterr().out


def test_links_go_to_a_forwarded_port_where_the_api_serves_no_pages(server, capsys):
    server.ui = False
    assert submit.main(OPTIONS) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "/#/runs/details/" in line]
    assert line.startswith("http://localhost:8080/#/runs/details/")
    assert "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80" in line


def test_kfps_mlflow_plugin_is_told_the_experiment_and_older_servers_are_not(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "search")
    assert submit.main(OPTIONS) == 0
    (run,) = server.runs.values()
    assert run["plugins_input"] == {"mlflow": {"experiment_name": "search"}}
    server.plugins = False
    assert submit.main([*OPTIONS, "--force"]) == 0
    assert "plugins_input" not in list(server.runs.values())[-1]


def token_of(account: str, ends: float) -> str:
    claims = {"sub": account, "exp": int(ends), "aud": ["pipelines.kubeflow.org"]}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


def test_a_token_that_runs_out_is_renewed_through_the_kubeconfig(server, tmp_path, monkeypatch):
    """Runs that are followed take longer than an hour."""
    account = "system:serviceaccount:team-a:inranker-submitter"
    old, new = token_of(account, time.time() + 60), token_of(account, time.time() + 3600)
    server.token = old
    monkeypatch.setenv("KF_PIPELINES_TOKEN", old)
    with KubernetesApi(token="kube") as kubernetes:
        api = kfp_api.Api("", "team-a")
        assert api.find_experiment("x") == "", "without a kubeconfig it is used as it is"
        monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig(tmp_path / "kubeconfig")))
        assert api.find_experiment("x") == "", "nor does it end with an account that may not ask for another"
        kubernetes.tokens["team-a/inranker-submitter"] = new
        server.token = new
        assert api.find_experiment("x") == ""
        asked = len(kubernetes.requests)
        assert api.find_experiment("x") == ""
        assert len(kubernetes.requests) == asked, "not before the new one runs out"
        assert kubernetes.audiences == [["pipelines.kubeflow.org"]]


def test_a_kfp_for_one_user_gets_no_namespace_and_says_so_where_that_is_another(server, capsys, monkeypatch):
    server.multi_user = False
    assert submit.main(OPTIONS) == 0
    assert "this KFP is for one user: runs are in kubeflow, not in team-a" in capsys.readouterr().out
    monkeypatch.setenv("KF_PIPELINES_NAMESPACE", "team-a")
    assert submit.main([*OPTIONS, "--force"]) == 0
    assert "one user" not in capsys.readouterr().out
    assert all("namespace" not in each for each in (*server.pipelines.values(), *server.experiments.values()))


def test_nothing_is_written_to_the_home_folder(server, tmp_path):
    assert submit.main(OPTIONS) == 0
    assert not (tmp_path / "home").exists()


# --- WAIT=1 -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(follow, "PAUSE", 0.01)  # the real one is seconds, and changes when is asked, not what


def submitted(server: KfpApi) -> str:
    assert submit.main(OPTIONS) == 0
    (run_id,) = server.runs
    return run_id


def test_following_prints_each_change_once_and_ends_as_the_run(server, quick, capsys):
    run_id = submitted(server)
    details = [
        [task("preflight", "RUNNING"), task("preflight-driver", "SUCCEEDED")],
        [task("preflight", "SUCCEEDED"), task("teacher-label", "PENDING")],
        [task("preflight", "SUCCEEDED"), task("teacher-label", "PENDING")],
        [task("preflight", "SUCCEEDED"), task("teacher-label", "RUNNING")],
    ]
    steps = [{"state": "RUNNING", "run_details": {"task_details": each}} for each in details]
    server.play(run_id, {"state": "PENDING"}, *steps, {"state": "SUCCEEDED"})
    capsys.readouterr()
    assert follow.follow(kfp_api.Api("", "team-a"), run_id) == 0
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "run PENDING",
        "preflight RUNNING",
        "run RUNNING",
        "preflight SUCCEEDED",
        "teacher-label PENDING",
        "teacher-label RUNNING",
        "run SUCCEEDED",
    ]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_following_a_run_that_fails_ends_with_1_and_says_why(server, quick, capsys, state):
    run_id = submitted(server)
    failed = [task("teacher-label", "FAILED", error={"code": 2, "message": "exit status 1"})]
    server.play(run_id, {"state": state, "run_details": {"task_details": failed}})
    assert follow.follow(kfp_api.Api("", "team-a"), run_id) == 1
    out = capsys.readouterr().out
    assert f"run {state}" in out
    assert f"{state}: task teacher-label: KFP says 'exit status 1'" in out


def test_wait_follows_what_it_submits(server, quick, monkeypatch):
    created = server._createrun

    def created_and_done(**arguments):
        made = created(**arguments)
        server.play(made["run_id"], {"state": "RUNNING"}, {"state": "SUCCEEDED"})
        return made

    monkeypatch.setattr(server, "_createrun", created_and_done)
    assert submit.main([*OPTIONS, "--wait"]) == 0
    assert server.calls.count("RunService_GetRun") == 2


def test_following_outlives_a_restart_of_the_server(server, quick, capsys):
    run_id = submitted(server)
    server.fail_next("RunService_GetRun", *[Fault(503)] * 7)
    server.play(run_id, {"state": "SUCCEEDED"})
    assert follow.follow(kfp_api.Api("", "team-a"), run_id) == 0


def test_following_ends_where_the_token_does_and_says_that_the_run_goes_on(server, quick):
    run_id = submitted(server)
    api = kfp_api.Api("", "team-a")
    server.token = "another"
    with pytest.raises(kfp_api.UserError, match=f"401.*the run goes on: make why RUN={run_id}"):
        follow.follow(api, run_id)
