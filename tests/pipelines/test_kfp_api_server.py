"""The test server itself: it must be what the real client meets, or the other tests prove nothing."""

from __future__ import annotations

import json

import kfp
import kfp_server_api
import pytest

from pipelines.compile import compile_pipeline
from tests import kfp_api
from tests.kfp_api import KfpApi


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return compile_pipeline("inranker", tmp_path_factory.mktemp("compiled") / "inranker.yaml")


@pytest.fixture
def arguments():
    from inranker_flow import profiles
    from pipelines import submission

    return submission.arguments("inranker", profiles.load("demo"))


@pytest.fixture
def server():
    with KfpApi() as api:
        yield api


def client(server: KfpApi, **more: str) -> kfp.Client:
    return kfp.Client(host=server.url, namespace="team-a", existing_token="good", **more)


def raw(server: KfpApi, kind: type, token: str = "good"):
    configuration = kfp_server_api.Configuration()
    configuration.host = server.url
    configuration.api_key["authorization"] = token
    configuration.api_key_prefix["authorization"] = "Bearer"
    return kind(kfp_server_api.ApiClient(configuration))


def test_kfp_client_goes_from_upload_to_run_to_schedule(server, package, arguments):
    api = client(server)
    pipeline = api.upload_pipeline(str(package), "inranker", namespace="team-a")
    version = api.upload_pipeline_version(str(package), "v2", pipeline_id=pipeline.pipeline_id)
    experiment = api.create_experiment("inranker", namespace="team-a")
    ids = {"pipeline_id": pipeline.pipeline_id, "version_id": version.pipeline_version_id}
    run = api.run_pipeline(experiment.experiment_id, "first", params=arguments, **ids)
    job = api.create_recurring_run(
        experiment.experiment_id, "nightly", cron_expression="0 0 3 * * *", params=arguments, no_catchup=True, **ids
    )
    assert api.get_run(run.run_id).state == "PENDING"
    assert [each.display_name for each in api.list_runs(namespace="team-a").runs] == ["first"]
    assert [each.recurring_run_id for each in api.list_recurring_runs(namespace="team-a").recurring_runs] == [
        job.recurring_run_id
    ]
    api.delete_recurring_run(job.recurring_run_id)
    assert not server.recurring_runs
    assert not server.violations


def test_kfp_client_does_not_find_a_private_pipeline_by_its_name(server, package):
    """Why the commands do not use that helper: it sends no namespace."""
    api = client(server)
    made = api.upload_pipeline(str(package), "inranker", namespace="team-a")
    assert api.get_pipeline_id("inranker") is None
    assert api.list_pipelines(namespace="team-a").pipelines[0].pipeline_id == made.pipeline_id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"surprise": 1}, "Unknown input parameter: surprise"),
        ({"run_key": 2}, "requires type STRING"),
        ({"values": []}, "requires type STRUCT"),
        ({"values": "s3://x"}, "requires type STRUCT"),
        ({"values": {"x": "y" * 10_000}}, "exceed maximum size of 10000"),
    ],
)
def test_parameters_are_refused_as_the_real_server_does(server, package, arguments, change, reason):
    api = client(server)
    made = api.upload_pipeline(str(package), "inranker", namespace="team-a")
    version = api.list_pipeline_versions(made.pipeline_id).pipeline_versions[0]
    experiment = api.create_experiment("x", namespace="team-a")
    with pytest.raises(kfp_server_api.ApiException, match=reason):
        api.run_pipeline(
            experiment.experiment_id,
            "run",
            params={**arguments, **change},
            pipeline_id=made.pipeline_id,
            version_id=version.pipeline_version_id,
        )
    assert not server.runs


def test_a_missing_parameter_is_refused(server, package, arguments):
    spec = kfp_api.package(package.read_bytes())["pipeline_spec"]
    kfp_api.check_parameters(spec, {})  # pressing Start
    parameter = spec["root"]["inputDefinitions"]["parameters"]["run_key"]
    del parameter["isOptional"], parameter["defaultValue"]
    del arguments["run_key"]
    with pytest.raises(kfp_api.Refusal, match="run_key is not optional"):
        kfp_api.check_parameters(spec, arguments)


def test_a_package_that_kfp_does_not_know_is_refused(package):
    text = package.read_text()
    with pytest.raises(kfp_api.Refusal, match="no field named"):
        kfp_api.package(text.replace("activeDeadlineSeconds", "activeDeadlineMinutes").encode())
    with pytest.raises(kfp_api.Refusal, match="no field named"):
        kfp_api.package(text.replace("deploymentSpec:", "deployment:").encode())


def test_unknown_fields_and_wrong_types_break_the_contract(server):
    runs = raw(server, kfp_server_api.RunServiceApi)
    for body in ({"display_name": "x", "colour": "red"}, {"display_name": ["x"]}, {"state": "HAPPY"}):
        with pytest.raises(kfp_server_api.ApiException, match="400"):
            runs.run_service_create_run(body)
    assert len(server.violations) == 3


@pytest.mark.skipif(not kfp_api.SWAGGER.exists(), reason=f"{kfp_api.SWAGGER.name} does not lie beside the repository")
def test_the_operations_are_those_of_the_published_document():
    for name, operation in kfp_api.OPERATIONS.items():
        call = kfp_api.swagger()["paths"][kfp_api.PREFIX + operation.path][operation.method.lower()]
        assert call["operationId"] == name
        parameters = call.get("parameters", [])
        assert {each["name"] for each in parameters if each["in"] == "query"} == set(operation.query)
        answer = call["responses"]["200"]["schema"].get("$ref", "").rpartition("/")[2]
        assert answer.lower() == operation.answer.lower()
        body = [each["schema"]["$ref"].rpartition("/")[2] for each in parameters if each["in"] == "body"]
        assert [each.lower() for each in body] == ([] if operation.body in ("", "file") else [operation.body.lower()])


@pytest.mark.skipif(not kfp_api.SWAGGER.exists(), reason=f"{kfp_api.SWAGGER.name} does not lie beside the repository")
def test_the_published_document_refuses_what_the_models_refuse():
    assert not kfp_api.swagger_problem("RunService_CreateRun", {"display_name": "x"}, "request")
    assert "colour" in kfp_api.swagger_problem("RunService_CreateRun", {"colour": "red"}, "request")
    assert "HAPPY" in kfp_api.swagger_problem("RunService_CreateRun", {"state": "HAPPY"}, "request")
    concurrency = {"max_concurrency": 1}
    assert not kfp_api.swagger_problem("RecurringRunService_CreateRecurringRun", concurrency, "request")


def test_namespaces_tokens_and_pages(server):
    experiments = raw(server, kfp_server_api.ExperimentServiceApi)
    for i in range(5):
        body = kfp_server_api.V2beta1Experiment(display_name=f"e{i}", namespace="team-a")
        experiments.experiment_service_create_experiment(body)
    first = experiments.experiment_service_list_experiments(namespace="team-a", page_size=3, sort_by="created_at desc")
    rest = experiments.experiment_service_list_experiments(
        namespace="team-a", page_size=3, sort_by="created_at desc", page_token=first.next_page_token
    )
    assert [each.display_name for each in first.experiments + rest.experiments] == ["e4", "e3", "e2", "e1", "e0"]
    assert rest.next_page_token is None
    assert experiments.experiment_service_list_experiments(namespace="inranker").experiments is None
    refused = {
        403: lambda: experiments.experiment_service_list_experiments(namespace="team-b"),
        400: experiments.experiment_service_list_experiments,
        409: lambda: experiments.experiment_service_create_experiment(body),
        401: lambda: raw(server, kfp_server_api.RunServiceApi, "old").run_service_list_runs(namespace="team-a"),
    }
    for status, call in refused.items():
        with pytest.raises(kfp_server_api.ApiException) as raised:
            call()
        assert raised.value.status == status
        assert json.loads(raised.value.body)["message"]


@pytest.mark.parametrize("cron", ["0 3 * * *", "0 0 3 * * *", "*/10 0-30/5 1,2 ? jan-mar SUN", "@daily", "@every 1h"])
def test_cron_expressions_that_the_server_accepts(cron):
    assert kfp_api.robfig_problem(cron) == ""


@pytest.mark.parametrize(
    "cron", ["", "0 3 * *", "60 0 0 * * *", "0 0 0 0 * *", "0 0 0 * * 7", "0 0 3-1 * * *", "0 0 */0 * * *"]
)
def test_cron_expressions_that_the_server_refuses(cron):
    assert kfp_api.robfig_problem(cron)
