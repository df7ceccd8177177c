"""KFP's cron expressions, read exactly as its server reads them (robfig/cron v1): six fields, seconds first.

Own code, because others read another language: seven for Sunday, L and #, five fields, and another rule for days.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from inranker_flow.errors import UserError

#: The server gives up where no date comes within this many days.
HORIZON = 5 * 366

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: Name, least, most, names of values.
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: i for i, name in enumerate(_MONTHS, 1)}),
    ("day of week", 0, 6, {name: i for i, name in enumerate(_DAYS)}),
)


@dataclass(frozen=True)
class Cron:
    """A parsed expression: the values of each field, and whether each field is a star."""

    values: tuple[frozenset[int], ...]
    stars: tuple[bool, ...]

    def matches_day(self, day: datetime.date) -> bool:
        """A day must satisfy both day fields if one of them is a star, else one of them (robfig's rule)."""
        of_month = day.day in self.values[3]
        of_week = day.isoweekday() % 7 in self.values[5]
        both = self.stars[3] or self.stars[5]
        return day.month in self.values[4] and ((of_month and of_week) if both else (of_month or of_week))

    def after(self, moment: datetime.datetime) -> Iterator[datetime.datetime]:
        """Yield moments after ``moment``, in order, until none comes for five years."""
        last = moment
        day = moment.date()
        while (day - last.date()).days <= HORIZON:
            if self.matches_day(day):
                for found in self._times(day, moment.tzinfo):
                    if found > moment:
                        yield found
                        last = found
            day += datetime.timedelta(days=1)

    def _times(self, day: datetime.date, zone: datetime.tzinfo | None) -> Iterator[datetime.datetime]:
        seconds, minutes, hours = (sorted(values) for values in self.values[:3])
        for hour in hours:
            for minute in minutes:
                for second in seconds:
                    yield datetime.datetime.combine(day, datetime.time(hour, minute, second), zone)


def parse(expression: str) -> Cron:
    """Read an expression; :class:`UserError` says what is wrong with it."""
    fields = expression.split()
    if len(fields) == 5:
        raise UserError(
            f"CRON={expression!r}: five fields, as crontab has; KFP's have six, seconds first, and it would take the "
            f"{fields[0]!r} for seconds: write '0 {expression.strip()}'",
            code="cron-form",
        )
    if len(fields) != 6:
        raise UserError(
            f"CRON={expression!r}: expected six fields (second minute hour day-of-month month day-of-week), as in "
            f"'0 0 3 * * *' for every day at three; got {len(fields)}",
            code="cron-form",
        )
    parsed = [_field(text, *field, expression) for text, field in zip(fields, _FIELDS, strict=True)]
    return Cron(tuple(frozenset(values) for values, _ in parsed), tuple(star for _, star in parsed))


def _field(
    text: str, name: str, least: int, most: int, names: dict[str, int], expression: str
) -> tuple[set[int], bool]:
    values: set[int] = set()
    star = False
    for part in text.split(","):
        try:
            values |= set(_range(part, least, most, names))
        except ValueError as error:
            raise UserError(f"CRON={expression!r}: {name} {text!r}: {error}", code="cron-form") from error
        star |= part[:1] in ("*", "?")
    return values, star


def _range(part: str, least: int, most: int, names: dict[str, int]) -> range:
    span, slash, step = part.partition("/")
    low, hyphen, high = span.partition("-")
    if low in ("*", "?") and not hyphen:
        start, end = least, most
    else:
        start = _number(low, names)
        end = _number(high, names) if hyphen else most if slash else start
    if not least <= start <= end <= most:
        raise ValueError(f"{part} is not within {least}-{most}")
    size = _number(step, {}) if slash else 1
    if size < 1:
        raise ValueError(f"{part}: the step must be positive")
    return range(start, end + 1, size)


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number" + (f" and none of {', '.join(names)}" if names else ""))
    return int(text)
