"""`make schedule` and `make unschedule`: a recurring run, kept as it is described.

inranker schedule inranker --profile paper --cron '0 0 3 * * *'
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from inranker_flow.commands.command import Parser, command
from inranker_flow.commands.options import add_options
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from pipelines import cron, kfp_api, why, workflows
from pipelines.kfp_api import Api
from pipelines.release import Release, prepare, publish, schedule_name


@command
def main(arguments: list[str] | None = None) -> int:
    """Schedule a pipeline, or end its schedule; returns the exit status."""
    parser = Parser("inranker schedule")
    add_options(parser)
    kfp_api.add_options(parser)
    parser.add_argument("--cron", default="", help="six fields: second minute hour day-of-month month day-of-week")
    parser.add_argument("--remove", action="store_true", help="end the schedule")
    parser.add_argument("--force", action="store_true", help="end a run of it that is under way, too")
    options = parser.parse_args(arguments)
    if options.remove:
        unschedule(Api(options.host, options.namespace), schedule_name(options), options.experiment, options.force)
        return 0
    dates = next_dates(options.cron)
    schedule(Api(options.host, options.namespace), prepare(options), options.experiment, options.cron, options.force)
    print(
        f"next        {', '.join(dates)} (by the server's clock, UTC unless its CRON_SCHEDULE_TIMEZONE says otherwise)"
    )
    return 0


def next_dates(expression: str) -> list[str]:
    """Return the next three dates of an expression; :class:`UserError` where there is none."""
    if not expression.strip():
        raise UserError(
            "CRON is missing: CRON='0 0 3 * * *' is every day at three (second minute hour day month weekday)",
            code="setting-missing",
        )
    now = datetime.datetime.now(datetime.UTC)
    dates = [f"{each:%Y-%m-%d %H:%M:%S}" for each in itertools.islice(cron.parse(expression).after(now), 3)]
    if not dates:
        raise UserError(f"CRON={expression!r}: no such date in the next five years", code="cron-form")
    return dates


def schedule(api: Api, release: Release, experiment: str, expression: str, force: bool = False) -> None:
    """Make the schedule be as described: unchanged, created, or replaced (the new one first, then the old ones go).

    KFP changes no recurring run, and one that is deleted takes the workflows of its runs with it: where one of those is
    under way nothing is changed, but by ``force``. Raises :class:`UserError` that names the run.
    """
    expression = " ".join(expression.split())
    experiment_id = api.experiment(experiment)
    pipeline = publish(api, release)
    existing = api.schedules(experiment_id, release.name)
    same = [each for each in existing if _is(each, pipeline[1], release.arguments, expression)]
    kept = same[0] if same else None
    old = [each for each in existing if each is not kept]
    with _at_rest(api, experiment_id, release.name, old, force):
        word = "unchanged"
        if kept is None:
            api.create_schedule(experiment_id, release.name, pipeline, release.arguments, expression)
            word = "replaced" if existing else "created"
        elif kept.status != "ENABLED":
            api.enable_schedule(kept.recurring_run_id)
            word = "enabled again"
    for each in old:
        api.delete_schedule(each.recurring_run_id)
    removed = f", {len(old)} duplicates removed" if same and old else ""
    print(f"schedule    {release.name} ({expression}): {word}{removed}")


def unschedule(api: Api, name: str, experiment: str, force: bool = False) -> None:
    """Let every recurring run of this name start nothing more, and delete them once no run of theirs is under way, or by
    ``force`` with it. Raises :class:`UserError` that names the run."""
    experiment_id = api.find_experiment(experiment)
    existing = api.schedules(experiment_id, name) if experiment_id else []
    for each in existing:
        api.disable_schedule(each.recurring_run_id)
    live = [] if force else _under_way(api, experiment_id, existing)
    if live:
        raise UserError(
            f"schedule {name} is switched off, but not removed: its run {live[0].display_name} is under way "
            f"({api.link(live[0].run_id)}) and would end with it; repeat this when it has ended, or FORCE=1 ends it",
            code="schedule-busy",
        )
    for each in existing:
        api.delete_schedule(each.recurring_run_id)
    print(f"schedule    {name}: {'removed' if existing else 'there is none'}")


@contextmanager
def _at_rest(api: Api, experiment_id: str, name: str, old: list[Any], force: bool) -> Iterator[None]:
    """Within the block no recurring run of ``old`` starts anything; they do again where the block, or a run, forbids."""
    enabled = [each.recurring_run_id for each in old if each.status == "ENABLED"]
    for each in enabled:
        api.disable_schedule(each)
    try:
        live = [] if force else _under_way(api, experiment_id, old)
        if live:
            raise UserError(
                f"schedule {name} is not changed: its run {live[0].display_name} is under way ({api.link(live[0].run_id)}) and "
                "would end with it; repeat this when it has ended, or FORCE=1 ends it",
                code="schedule-busy",
            )
        yield
    except BaseException:
        for each in enabled:
            api.enable_schedule(each)
        raise


def _under_way(api: Api, experiment_id: str, schedules: list[Any]) -> list[Any]:
    """Return runs that one of the recurring runs has started and that have not ended, newest first."""
    ids = {each.recurring_run_id for each in schedules}
    if not ids:
        return []
    own = [run for run in api.runs(experiment_id) if run.recurring_run_id in ids]
    return [run for run in own if run.state not in kfp_nodes.FINAL and not workflows.is_gone(api, why.plain(run))]


def _is(existing: Any, version_id: str, arguments: dict[str, Any], expression: str) -> bool:
    trigger = existing.trigger and existing.trigger.cron_schedule
    return bool(
        existing.pipeline_version_reference.pipeline_version_id == version_id
        and existing.runtime_config.parameters == arguments
        and trigger
        and trigger.cron == expression
        and int(existing.max_concurrency) == 1
        and existing.no_catchup
        and (existing.service_account or kfp_api.SERVICE_ACCOUNT) == kfp_api.SERVICE_ACCOUNT
    )
