"""`make schedule` and `make unschedule`: a recurring run, kept as it is described.

python -m pipelines.schedule inranker --profile paper --cron '0 0 3 * * *'
"""

from __future__ import annotations

import datetime
import itertools
import sys
from typing import Any

from inranker_flow.errors import UserError
from pipelines import cron, kfp_api
from pipelines.command import Parser, command
from pipelines.kfp_api import Api
from pipelines.options import add_options
from pipelines.release import Release, prepare, publish, schedule_name


@command
def main(arguments: list[str] | None = None) -> int:
    """Schedule a pipeline, or end its schedule; returns the exit status."""
    parser = Parser("make schedule")
    add_options(parser)
    kfp_api.add_options(parser)
    parser.add_argument("--cron", default="", help="six fields: second minute hour day-of-month month day-of-week")
    parser.add_argument("--remove", action="store_true", help="end the schedule")
    options = parser.parse_args(arguments)
    if options.remove:
        unschedule(Api(options.host, options.namespace), schedule_name(options), options.experiment)
        return 0
    dates = next_dates(options.cron)
    schedule(Api(options.host, options.namespace), prepare(options), options.experiment, options.cron)
    print(
        f"next        {', '.join(dates)} (by the server's clock, UTC unless its CRON_SCHEDULE_TIMEZONE says otherwise)"
    )
    return 0


def next_dates(expression: str) -> list[str]:
    """The next three dates of an expression; :class:`UserError` where there is none."""
    if not expression.strip():
        raise UserError(
            "CRON is missing: CRON='0 0 3 * * *' is every day at three (second minute hour day month weekday)"
        )
    now = datetime.datetime.now(datetime.UTC)
    dates = [f"{each:%Y-%m-%d %H:%M:%S}" for each in itertools.islice(cron.parse(expression).after(now), 3)]
    if not dates:
        raise UserError(f"CRON={expression!r}: no such date in the next five years")
    return dates


def schedule(api: Api, release: Release, experiment: str, expression: str) -> None:
    """Make the schedule be as described: unchanged, created, or replaced (the new one first, then the old ones go)."""
    expression = " ".join(expression.split())
    experiment_id = api.experiment(experiment)
    pipeline = publish(api, release)
    existing = api.schedules(experiment_id, release.name)
    same = [each for each in existing if _is(each, pipeline[1], release.arguments, expression)]
    if same:
        kept, word = same[0], "unchanged"
        if kept.status != "ENABLED":
            api.enable_schedule(kept.recurring_run_id)
            word = "enabled again"
    else:
        kept = api.create_schedule(experiment_id, release.name, pipeline, release.arguments, expression)
        word = "replaced" if existing else "created"
    surplus = [each for each in existing if each.recurring_run_id != kept.recurring_run_id]
    for each in surplus:
        api.delete_schedule(each.recurring_run_id)
    removed = f", {len(surplus)} duplicates removed" if same and surplus else ""
    print(f"schedule    {release.name} ({expression}): {word}{removed}")


def unschedule(api: Api, name: str, experiment: str) -> None:
    """Delete every recurring run of this name; runs that it has started go on."""
    experiment_id = api.find_experiment(experiment)
    existing = api.schedules(experiment_id, name) if experiment_id else []
    for each in existing:
        api.delete_schedule(each.recurring_run_id)
    print(f"schedule    {name}: {'removed' if existing else 'there is none'}")


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


if __name__ == "__main__":
    sys.exit(main())
