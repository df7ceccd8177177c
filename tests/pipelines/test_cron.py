"""Cron expressions as KFP's server reads them."""

from __future__ import annotations

import datetime
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inranker_flow.errors import UserError
from pipelines import cron, schedule
from tests.kfp_api import robfig_problem
from tests.refusals import refuses

NOW = datetime.datetime(2026, 11, 25, 1, 30, 15, tzinfo=datetime.UTC)
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def following(expression: str, count: int = 3, now: datetime.datetime = NOW) -> list[str]:
    return [f"{each:%Y-%m-%d %H:%M:%S}" for each in itertools.islice(cron.parse(expression).after(now), count)]


@pytest.mark.parametrize(
    ("expression", "dates"),
    [
        ("0 0 3 * * *", ["2026-11-25 03:00:00", "2026-11-26 03:00:00", "2026-11-27 03:00:00"]),
        ("0 30 1 * * *", ["2026-11-26 01:30:00", "2026-11-27 01:30:00", "2026-11-28 01:30:00"]),
        ("15,20 30 1 * * ?", ["2026-11-25 01:30:20", "2026-11-26 01:30:15", "2026-11-26 01:30:20"]),
        ("0 0 0 29 feb *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00", "2036-02-29 00:00:00"]),
        ("0 0 12 ? * MON-WED", ["2026-11-25 12:00:00", "2026-11-30 12:00:00", "2026-12-01 12:00:00"]),
        ("0 0 0 1/15 * *", ["2026-12-01 00:00:00", "2026-12-16 00:00:00", "2026-12-31 00:00:00"]),
        # Both day fields given: either is enough. One with a star, be it with a step: both must hold.
        ("0 0 0 1 * sun", ["2026-11-29 00:00:00", "2026-12-01 00:00:00", "2026-12-06 00:00:00"]),
        ("0 0 0 */2 * sun", ["2026-11-29 00:00:00", "2026-12-13 00:00:00", "2026-12-27 00:00:00"]),
    ],
)
def test_the_next_dates(expression, dates):
    assert following(expression) == dates


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 3 * * *", "five fields, as crontab has"),
        ("0 0 3 * *  * *", "expected six fields"),
        ("@daily", "expected six fields"),
        ("60 0 0 * * *", "second '60'"),
        ("0 0 24 * * *", "hour '24'"),
        ("0 0 0 0 * *", "day of month '0'"),
        ("0 0 0 * 13 *", "month '13'"),
        ("0 0 0 * * 7", "day of week '7'"),
        ("0 0 0 L * *", "'L' is no number"),
        ("0 0 0 * * mon#1", "'mon#1' is no number and none of sun, mon"),
        ("0 0 5-3 * * *", "5-3 is not within 0-23"),
        ("0 */0 * * * *", "the step must be positive"),
        ("0 1/2/3 * * * *", "'2/3' is no number"),
        ("0 0 -1 * * *", "'' is no number"),
    ],
)
def test_an_expression_that_is_none_says_what_is_wrong(expression, reason):
    with pytest.raises(UserError, match=r"^CRON=") as raised:
        cron.parse(expression)
    assert reason in str(raised.value)


def test_five_fields_come_with_the_six_that_are_meant():
    with pytest.raises(UserError, match=r"write '0 30 3 \* \* 1'"):
        cron.parse("30 3 * * 1")


def test_a_date_that_never_comes_is_refused():
    with refuses("cron-form"):
        schedule.next_dates("0 0 0 30 feb *")


def test_no_expression_shows_one():
    with refuses("setting-missing", "CRON"):
        schedule.next_dates("")


@st.composite
def fields(draw, bounds):
    """Text of a field, the values that it means by the definition, and whether it is a star."""
    least, most = bounds
    parts, values, star = [], set(), False
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["star", "number", "range", "from"]))
        low = draw(st.integers(least, most))
        high = draw(st.integers(low, most))
        step = draw(st.integers(1, 20))
        if kind == "star":
            slash = draw(st.booleans())
            parts.append(draw(st.sampled_from("*?")) + (f"/{step}" if slash else ""))
            values |= {v for v in range(least, most + 1) if (v - least) % (step if slash else 1) == 0}
            star = True
        elif kind == "number":
            parts.append(str(low))
            values.add(low)
        elif kind == "from":
            parts.append(f"{low}/{step}")
            values |= {v for v in range(low, most + 1) if (v - low) % step == 0}
        else:
            parts.append(f"{low}-{high}/{step}")
            values |= {v for v in range(low, high + 1) if (v - low) % step == 0}
    return ",".join(parts), values, star


@settings(max_examples=60, deadline=None)
@given(st.tuples(*(fields(bounds) for bounds in BOUNDS)), st.integers(0, 10**8))
def test_what_comes_next_is_what_counting_seconds_finds(parts, offset):
    """Two days, second by second (hours and days that cannot match are skipped whole)."""
    expression = " ".join(text for text, _, _ in parts)
    seconds, minutes, hours, days, months, weekdays = (values for _, values, _ in parts)
    both = parts[3][2] or parts[5][2]
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=offset)
    end = now + datetime.timedelta(hours=30)
    expected, moment = [], now
    while moment < end and len(expected) < 5:
        moment += datetime.timedelta(seconds=1)
        weekday = WEEKDAYS.index(f"{moment:%a}".lower())
        day = (moment.day in days and weekday in weekdays) if both else (moment.day in days or weekday in weekdays)
        if not (moment.month in months and day and moment.hour in hours):
            moment = moment.replace(minute=59, second=59)
        elif moment.minute in minutes and moment.second in seconds:
            expected.append(moment)
    found = list(itertools.islice(cron.parse(expression).after(now), len(expected) or 1))
    assert found[: len(expected)] == expected
    if not expected:
        assert not found or found[0] > end - datetime.timedelta(seconds=1)
    assert robfig_problem(expression) == ""


@given(st.text(alphabet="0123456789*?/-, mojan@LW#", max_size=24))
def test_what_we_accept_the_server_accepts(text):
    try:
        cron.parse(text)
    except UserError:
        return
    assert robfig_problem(" ".join(text.split())) == ""
