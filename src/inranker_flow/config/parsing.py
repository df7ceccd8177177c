"""The only code that turns JSON or YAML into the sections of a profile, and back.

An unknown key or a wrong type is an error that names the key. Whole numbers that arrive as floats are accepted for
integers, because KFP carries JSON numbers as doubles.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from inranker_flow.config.rules import LONG, NO_CREDENTIALS, NO_RESULT, Range, Text
from inranker_flow.errors import UserError
from inranker_flow.text_files import quoted, shown

T = TypeVar("T")


def parse(kind: type[T], data: Any, where: str) -> T:
    """Build dataclass ``kind`` from nested plain data; ``where`` prefixes the key in errors (``phase1``)."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a section with keys, got {quoted(data)}", code="setting-type")
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind, include_extras=True)
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1) if isinstance(key, str) and len(key) < 100 else []
            hint = f"; did you mean {close[0]!r}?" if close else f"; it knows: {', '.join(fields)}"
            raise UserError(f"{where}.{shown(key)}: unknown key{hint}", code="setting-unknown")
    for name, known in fields.items():
        missing = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if missing and name not in data:
            raise UserError(f"{where}.{name}: missing; this key has no default", code="setting-missing")
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast("type[Any]", hint), value, where)
    origin = get_origin(hint)
    if origin is Annotated:
        kind, *marks = get_args(hint)
        rule = next((mark for mark in marks if isinstance(mark, Range | Text)), None)
        if rule is None:
            return _value(kind, value, where)
        if getattr(rule, "numbers", False) and type(value) in (int, float) and abs(value) < 1e6:
            value = f"{value:g}"
        return _checked(rule, _plain(kind, value, where), where)
    if origin is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise UserError(
            f"{where}: {quoted(value)} is not one of {', '.join(map(repr, get_args(hint)))}", code="setting-value"
        )
    if origin is tuple:
        if isinstance(value, int | float) and not isinstance(value, bool) and _base(get_args(hint)[0]) is int:
            value = [value]  # layers: 3
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {quoted(value)}", code="setting-type")
        return tuple(_value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{where}: expected names with values, got {quoted(value)}", code="setting-type")
        names, values = get_args(hint)
        return {_value(names, key, where): _value(values, item, f"{where}.{shown(key)}") for key, item in value.items()}
    if origin in (types.UnionType, typing.Union):
        raise TypeError(f"{where}: union types are not supported in configuration classes")
    plain = _plain(hint, value, where)
    return _checked(_WORDS, plain, where) if hint is str else plain


def _base(hint: Any) -> Any:
    """Return the type behind the rules of a hint."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


#: The rule of a text that has none of its own.
_WORDS = Text()


def _checked(rule: Range | Text, value: Any, where: str) -> Any:
    """Return ``value``, where ``rule`` has nothing against it."""
    problem = rule.problem(value)
    if problem:
        # Who gave a password does not want to see it again.
        secret = problem == NO_CREDENTIALS or problem.startswith(LONG) or (isinstance(rule, Text) and rule.secret)
        told = "" if secret or value == "" else f"{quoted(value)} "
        raise UserError(f"{where}: {told}{problem}", code="setting-value")
    return value


def _plain(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as one of the types that JSON has."""
    if hint is bool and isinstance(value, bool):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        # isfinite() of an integer beyond the floats raises.
        if hint is int and (isinstance(value, int) or (math.isfinite(value) and value == int(value))):
            return int(value)
        if hint is float and isinstance(value, int):
            return float(max(-_HUGE, min(_HUGE, value)))
        if hint is float and math.isfinite(value):
            return float(value)
    if hint is float and isinstance(value, str) and len(value) < 100:
        try:  # YAML 1.1 reads 7e-5 as a string
            number = float(value)
        except ValueError:
            pass
        else:
            return _plain(float, number, where)
    if hint is str and isinstance(value, str):
        return value
    if hint is Any:
        return _anything(value, where)
    if value is None:
        raise UserError(f"{where}: has no value; give one, or leave the key out", code="setting-missing")
    raise UserError(
        f"{where}: expected {getattr(hint, '__name__', hint)}, got {quoted(value)} ({type(value).__name__})",
        code="setting-type",
    )


#: Beyond every limit.
_HUGE = 10**300


def _anything(value: Any, where: str) -> Any:
    """Return a value of JSON's types; a whole number stays an integer."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _anything(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_anything(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value == int(value) else value
    if value is None or isinstance(value, str | bool | int):
        return value
    raise UserError(f"{where}: {value!r} ({type(value).__name__}) is nothing that JSON can say", code="setting-type")


def deciding(config: Any) -> dict[str, Any]:
    """As :func:`as_dict`, without the settings that change no result (`NO_RESULT`): what a key is made of."""
    hints = get_type_hints(type(config), include_extras=True)
    return {
        each.name: _deciding(value)
        for each in dataclasses.fields(config)
        if NO_RESULT not in get_args(hints[each.name])
        for value in [getattr(config, each.name)]
    }


def _deciding(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_deciding(each) for each in value]
    return deciding(value) if dataclasses.is_dataclass(value) else as_plain(value)


def without_defaults(config: Any) -> dict[str, Any]:
    """As :func:`as_dict`, without what :func:`parse` would add by itself: KFP repeats a section in every task that takes it."""
    return {
        each.name: without_defaults(value) if dataclasses.is_dataclass(value) else as_plain(value)
        for each in dataclasses.fields(config)
        if (value := getattr(config, each.name)) != _default(each)
    }


def _default(known: dataclasses.Field[Any]) -> Any:
    return known.default if known.default_factory is dataclasses.MISSING else known.default_factory()


def as_plain(value: Any) -> Any:
    """Return a value, a section or several sections as data for JSON."""
    return json.loads(json.dumps(value, default=dataclasses.asdict))


def as_dict(config: Any) -> dict[str, Any]:
    """Return the plain nested data of a configuration object (lists, no tuples), ready for JSON, KFP and :func:`parse`."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain
