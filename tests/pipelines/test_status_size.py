"""The estimate of a workflow's status against what a real cluster recorded, and what it refuses."""

from __future__ import annotations

import pytest

from inranker_flow import profiles
from inranker_flow.errors import UserError
from pipelines import compile, plan, status_size, submission, submit

#: Tasks of a run of one target (KFP 2.17.0, Argo 4.0.8): bytes of component, task, container and settings together, and of
#: the patch of the pod.
RECORDED = {
    "evaluate": (9229, 17769), "preflight": (7256, 11400), "distill-phase2": (6256, 10001), "promote": (5999, 9514),
    "generate-queries": (5931, 8724), "teacher-label-2": (5515, 8446), "teacher-label": (5505, 8422),
    "retrieve-2": (5115, 8437), "distill-phase1": (5156, 7584), "retrieve": (4978, 7604), "prepare-corpus-2": (4123, 5965),
    "prepare-corpus": (4141, 5951), "notify": (4127, 5122),
}  # fmt: skip
#: Component and task of its graphs, each in two drivers: root, exit handler, loop, iteration; and its other nodes.
GRAPHS, OTHERS = (6682, 11006, 5795, 5795), 15
PLAIN = 1_147_844


@pytest.fixture(scope="module", params=["inranker", "retrain"])
def compiled(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "it.yaml"
    loaded = profiles.load("paper", {"corpora.uri": "s3://b/c"} if request.param == "retrain" else {})
    documents = compile.read(compile.compile_pipeline(request.param, path, loaded.cluster))
    return documents, submission.arguments(request.param, loaded)


def test_nodes_have_the_bytes_that_a_real_run_had():
    nodes = 6 * len(RECORDED) + 2 * len(GRAPHS) + OTHERS
    assert nodes == 101
    parameters = sum(2 * fixed + 6 * patch for fixed, patch in RECORDED.values()) + 2 * sum(GRAPHS)
    assert nodes * status_size.NODE + status_size.ESCAPED * parameters == pytest.approx(PLAIN, rel=0.02)


def test_more_than_fifty_targets_fit_and_the_estimate_grows_evenly(compiled):
    documents, arguments = compiled
    assert 50 <= status_size.most_targets(documents, arguments) < 100
    sizes = [status_size.estimate(documents, arguments, targets) for targets in (1, 2, 3)]
    assert sizes[2].plain - sizes[1].plain == pytest.approx(sizes[1].plain - sizes[0].plain)
    assert 500_000 < sizes[0].plain < PLAIN and sizes[0].fits
    bare = status_size.estimate(documents, arguments, 60, cluster_retries=False)
    assert bare.fits and bare.plain < 0.7 * status_size.estimate(documents, arguments, 60).plain


def test_the_inputs_of_sixty_targets_fit_into_one_argument(compiled):
    documents, arguments = compiled
    assert status_size.estimate(documents, arguments, 60).argument <= status_size.LONGEST_ARGUMENT


def test_what_cannot_fit_is_refused_in_one_line_that_says_how_many_can(compiled):
    documents, arguments = compiled
    most = status_size.most_targets(documents, arguments)
    assert status_size.check(documents, arguments, 1) == ""
    assert "KFP's list of tasks stands still" in status_size.check(documents, arguments, most)
    with pytest.raises(UserError) as refused:
        status_size.check(documents, arguments, most + 1)
    line = str(refused.value)
    assert line.startswith(f"targets: {most + 1} are too many for one run") and f"; {most} fit: split them" in line
    assert "\n" not in line


def many(count):
    return (
        "targets=[" + ", ".join(f"{{name: t{each}, uri: 'demo:target/{each}'}}" for each in range(1, count + 1)) + "]"
    )


def test_submit_and_plan_refuse_it_before_anything_is_made(server, capsys):
    assert plan.main(["inranker", "--set", many(90), "--device", "cpu", "--calibrate", "0"]) == 2
    assert "FAILED: targets: 90 are too many for one run" in capsys.readouterr().err
    assert submit.main(["inranker", "--namespace", "team-a", "--set", many(90)]) == 2
    assert "FAILED: targets: 90 are too many for one run" in capsys.readouterr().err
    assert not server.pipelines and not server.runs


def test_pods_that_help_leave_room_for_fewer_targets(tmp_path, capsys):
    most, plain = [], []
    for workers in (1, 2, 4):
        loaded = profiles.load("paper", {"cluster.workers": workers})
        documents = compile.read(compile.compile_pipeline("inranker", tmp_path / "it.yaml", loaded.cluster))
        arguments = submission.arguments("inranker", loaded)
        most.append(status_size.most_targets(documents, arguments))
        plain.append(status_size.estimate(documents, arguments, 10).plain)
    assert most[0] > most[1] > most[2] > 15
    # Two loops for a target, and one for the source: the loop itself once, and a round for each pod more.
    assert plain[2] - plain[1] == pytest.approx(2 * (plain[1] - plain[0]), rel=0.6)
    assert plan.main(["inranker", "--set", many(40), "--set", "cluster.workers=4", "--device", "cpu"]) == 2
    assert "lower cluster.workers where it is above 1" in capsys.readouterr().err
