"""`make schedule`, `make unschedule` and `make runs` against the KFP API."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys

import pytest

from pipelines import kfp_api, runs, schedule, submit
from tests.kfp_api import Fault

OPTIONS = ["inranker", "--profile", "demo", "--namespace", "team-a"]
NIGHTLY = ["--cron", "0 0 3 * * *"]


def kept(server) -> dict:
    (found,) = server.recurring_runs.values()
    return found


def test_a_first_schedule_is_created_with_its_next_dates(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    found = kept(server)
    assert found["display_name"] == "inranker-demo"
    assert found["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (found["max_concurrency"], found["no_catchup"], found["status"]) == ("1", True, "ENABLED")
    assert found["service_account"] == "inranker-runner"
    assert found["namespace"] == "team-a"
    out = capsys.readouterr().out
    assert "inranker-demo (0 0 3 * * *): created" in out
    assert out.count(" 03:00:00") == 3
    assert not server.runs


def test_the_same_again_changes_nothing(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    before = kept(server)["recurring_run_id"]
    assert schedule.main([*OPTIONS, "--cron", " 0  0 3 * * * "]) == 0
    assert "unchanged" in capsys.readouterr().out
    assert kept(server)["recurring_run_id"] == before
    assert server.calls.count("RecurringRunService_CreateRecurringRun") == 1


@pytest.mark.parametrize("more", [["--cron", "0 0 4 * * *"], [*NIGHTLY, "--seed", "7"]], ids=["cron", "arguments"])
def test_a_change_replaces_it_and_the_new_one_is_there_before_the_old_one_goes(server, capsys, more):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    before = kept(server)["recurring_run_id"]
    assert schedule.main([*OPTIONS, *more]) == 0
    assert "replaced" in capsys.readouterr().out
    assert kept(server)["recurring_run_id"] != before
    order = [call for call in server.calls if "CreateRecurringRun" in call or "DeleteRecurringRun" in call]
    assert [each.rpartition("_")[2] for each in order] == [
        "CreateRecurringRun",
        "CreateRecurringRun",
        "DeleteRecurringRun",
    ]


def test_a_new_version_of_the_pipeline_replaces_it(server, use_registry, registry, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    before = kept(server)["pipeline_version_reference"]
    use_registry(f"{registry.name}/other")
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    after = kept(server)["pipeline_version_reference"]
    assert after["pipeline_id"] == before["pipeline_id"]
    assert after["pipeline_version_id"] != before["pipeline_version_id"]


def test_a_disabled_one_is_enabled_again(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    kept(server).update(status="DISABLED", mode="DISABLE")
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    assert kept(server)["status"] == "ENABLED"
    assert "enabled again" in capsys.readouterr().out


@pytest.mark.parametrize("field", [{"max_concurrency": "5"}, {"no_catchup": False}, {"service_account": "default"}])
def test_what_somebody_changed_by_hand_is_put_right(server, field):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    kept(server).update(field)
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    key = next(iter(field))
    assert kept(server)[key] == {"max_concurrency": "1", "no_catchup": True, "service_account": "inranker-runner"}[key]


def test_duplicates_are_removed(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    original = kept(server)
    for name in ("a", "b"):
        server.recurring_runs[name] = {**original, "recurring_run_id": name, "created_at": server.now()}
        server._namespace_of[name] = "team-a"
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    assert kept(server)["recurring_run_id"] == original["recurring_run_id"]
    assert "unchanged, 2 duplicates removed" in capsys.readouterr().out


@pytest.mark.parametrize("fault", [Fault(500, commits=True), Fault(0, commits=True), Fault(503)])
def test_a_lost_answer_makes_no_second_schedule(server, fault):
    server.fail_next("RecurringRunService_CreateRecurringRun", fault)
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    assert kept(server)["display_name"] == "inranker-demo"


def test_a_replacement_that_was_cut_off_is_finished_by_the_next_call(server, capsys):
    """The new one is there, the old one could not be deleted."""
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    server.fail_next("RecurringRunService_DeleteRecurringRun", *[Fault(500)] * 3)
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *"]) == 2
    assert "the server answers 500" in capsys.readouterr().err
    assert len(server.recurring_runs) == 2
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *"]) == 0
    assert kept(server)["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * *"}}


def test_profiles_have_schedules_of_their_own(server):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    assert schedule.main(["inranker", "--profile", "small", "--namespace", "team-a", *NIGHTLY, *SMALL]) == 0
    assert {each["display_name"] for each in server.recurring_runs.values()} == {"inranker-demo", "inranker-small"}


SMALL = ["--source", "demo:source/1", "--targets", "demo:target/2"]


def test_unschedule_removes_it_and_may_be_repeated(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    assert schedule.main([*OPTIONS, "--remove"]) == 0
    assert not server.recurring_runs
    assert schedule.main([*OPTIONS, "--remove"]) == 0
    out = capsys.readouterr().out
    assert "removed" in out
    assert "there is none" in out


def started(server, state: str = "RUNNING") -> dict:
    """A run that the schedule has started, as the real server tells of it."""
    assert submit.main(OPTIONS) == 0
    run = list(server.runs.values())[-1]
    server.set_run(run["run_id"], state=state, recurring_run_id=kept(server)["recurring_run_id"])
    return run


def test_a_change_waits_for_the_run_that_is_under_way_for_deleting_a_recurring_run_deletes_its_workflows(
    server, capsys
):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    before, run = dict(kept(server)), started(server)
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("FAILED: schedule inranker-demo is not changed")
        and run["display_name"] in line
        and "FORCE=1" in line
    )
    assert kept(server) == before, "and it goes on to start runs"
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0, "nothing is to be changed"
    server.set_run(run["run_id"], state="SUCCEEDED")
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *"]) == 0
    assert kept(server)["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * *"}}


def test_force_changes_it_all_the_same(server):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    started(server)
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *", "--force"]) == 0
    assert kept(server)["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * *"}}


def test_a_run_of_another_origin_stands_in_no_ones_way(server):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    assert submit.main(OPTIONS) == 0
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *"]) == 0


def test_unschedule_switches_it_off_at_once_and_removes_it_when_nothing_of_it_runs(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    run = started(server)
    assert schedule.main([*OPTIONS, "--remove"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "switched off, but not removed" in line and run["display_name"] in line and "FORCE=1" in line
    assert kept(server)["status"] == "DISABLED"
    server.set_run(run["run_id"], state="FAILED")
    assert schedule.main([*OPTIONS, "--remove"]) == 0
    assert not server.recurring_runs


def test_unschedule_by_force_ends_the_run_with_it(server):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    started(server)
    assert schedule.main([*OPTIONS, "--remove", "--force"]) == 0
    assert not server.recurring_runs


def test_a_change_that_fails_leaves_the_schedule_on(server, capsys):
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    server.fail_next("RecurringRunService_CreateRecurringRun", *[Fault(500)] * 2)
    assert schedule.main([*OPTIONS, "--cron", "0 0 4 * * *"]) == 2
    assert kept(server)["status"] == "ENABLED"


def test_one_that_is_deleted_meanwhile_is_fine(server):
    api = kfp_api.Api("", "team-a")
    assert schedule.main([*OPTIONS, *NIGHTLY]) == 0
    recurring_run_id = kept(server)["recurring_run_id"]
    api.delete_schedule(recurring_run_id)
    api.delete_schedule(recurring_run_id)
    assert not server.recurring_runs


@pytest.mark.parametrize(
    ("expression", "reason"),
    [("0 3 * * *", "five fields"), ("", "CRON is missing"), ("0 0 0 * * 7", "day of week '7'")],
)
def test_a_bad_cron_is_refused_before_anything_is_asked(server, capsys, expression, reason):
    assert schedule.main([*OPTIONS, "--cron", expression]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("FAILED: CRON")
    assert reason in line
    assert server.calls == []


# --- make runs --------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_minutes_and_link(server, capsys):
    assert submit.main(OPTIONS) == 0
    assert submit.main([*OPTIONS, "--seed", "9"]) == 0
    first, second = server.runs
    server.set_run(first, state="SUCCEEDED", created_at="2026-11-25T03:00:00Z", finished_at="2026-11-25T05:30:00Z")
    capsys.readouterr()
    assert runs.main(["--namespace", "team-a"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "state", "started", "minutes", "link"]
    assert [row.split()[1] for row in rows] == ["PENDING", "SUCCEEDED"]
    assert rows[1].split()[2:5] == ["2026-11-25", "03:00", "150"]
    assert rows[0].endswith(f"{server.url}/#/runs/details/{second}")


def test_the_minutes_of_a_run_go_on_until_it_ends(server, capsys):
    """The API says 1970 for "not yet"; a run that ended without saying when has no minutes."""
    assert submit.main(OPTIONS) == 0
    (run_id,) = server.runs
    now = datetime.datetime.now(datetime.UTC)
    server.set_run(run_id, state="RUNNING", created_at=(now - datetime.timedelta(minutes=90)).isoformat())
    shown = []
    for state in ("RUNNING", "FAILED"):
        server.set_run(run_id, state=state)
        capsys.readouterr()
        assert runs.main(["--namespace", "team-a"]) == 0
        shown.append(capsys.readouterr().out.splitlines()[-1].split()[4])
    assert shown == ["90", "-"]


def test_a_reader_who_has_seen_enough_is_no_failure(server):
    """Of which make would complain: ``make runs | head``."""
    assert submit.main(OPTIONS) == 0
    command = [sys.executable, "-m", "inranker_flow", "runs", "--namespace", "team-a"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_runs_is_no_failure(server, capsys):
    assert runs.main(["--namespace", "team-a"]) == 0
    assert "no run yet" in capsys.readouterr().out


def test_many_runs_come_page_by_page(server):
    assert submit.main(OPTIONS) == 0
    (template,) = server.runs.values()
    for i in range(250):
        copy = {**template, "run_id": f"run-{i}", "created_at": server.now()}
        server.runs[copy["run_id"]] = copy
    api = kfp_api.Api("", "team-a")
    everything = api.runs(template["experiment_id"])
    assert len({each.run_id for each in everything}) == 251
    assert [each.run_id for each in api.runs(template["experiment_id"], most=2)] == ["run-249", "run-248"]
