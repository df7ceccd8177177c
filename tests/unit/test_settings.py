"""Every value that a configuration can be given parses, or is refused in one line that names its key."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from inranker_flow.config import cluster, retrieval, sections, server
from inranker_flow.config.parsing import parse
from inranker_flow.config.rules import Above, Below, Range, Text
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, TeacherConfig
from inranker_flow.corpora.folders import Wishes
from inranker_flow.errors import UserError

_ITSELF: list[Any] = []
_ITSELF.append(_ITSELF)
HOSTILE: tuple[Any, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
    0,
    1e308,
    10**30,
    -(10**30),
    10**400,
    10**5000,
    "",
    " ",
    "\t",
    "x" * 10_000,
    "x" * 1_000_000,
    "9" * 5_000,
    [],
    [[]],
    [None],
    {},
    {"": ""},
    {1: 2},
    {"a": {"b": {}}},
    None,
    True,
    "true",
    "nan",
    "a\nb",
    "a\0b",
    "'",
    '"; rm -rf /',
    "\ud800",
    "\u2028",
    "語料庫",
    "http://anna:secret@host/v1",
    b"bytes",
    datetime.date(2026, 1, 1),
    {"set"},
    _ITSELF,
    object(),
)
KINDS = {**vars(cluster), **vars(server), **vars(retrieval), **vars(sections)}
SECTIONS = [each for each in KINDS.values() if dataclasses.is_dataclass(each) and isinstance(each, type)]
RULES = (Range, Above, Below, Text)
CONFIGS = [*(each for each in SECTIONS if not issubclass(each, RULES)), Wishes]
#: What a section cannot be without.
NEEDED = {"uri": "x", "name": "x", "checkpoint": "x", "key": "x"}


def needed(kind: type[Any]) -> dict[str, Any]:
    return {
        each.name: NEEDED[each.name]
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }


def fields() -> Iterator[tuple[type[Any], str, Any]]:
    for kind in CONFIGS:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            yield kind, name, hint


def base(hint: Any) -> Any:
    return base(get_args(hint)[0]) if hasattr(hint, "__metadata__") else hint


def try_value(kind: type[Any], name: str, value: Any) -> tuple[Any, str]:
    """What it is parsed to, and the message where it is refused."""
    try:
        return getattr(parse(kind, {**needed(kind), name: value}, "section"), name), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("kind", "name", "hint"), [pytest.param(*each, id=f"{each[0].__name__}.{each[1]}") for each in fields()]
)
def test_a_hostile_value_is_taken_or_refused_in_one_line_that_names_the_key(kind, name, hint):
    for value in HOSTILE:
        found, message = try_value(kind, name, value)
        if message:
            assert message.startswith(f"section.{name}"), message
            assert len(message.splitlines()) == 1 and len(message.encode("utf-8")) < 1_500
            assert "secret" not in message
        elif isinstance(found, str):
            assert "\0" not in found
            found.encode("utf-8")  # what is taken can be written to JSON
            assert "secret" not in found or "\n" in found or name in ("prompt", "instruction", "body")


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*each[:2], id=f"{each[0].__name__}.{each[1]}") for each in fields() if base(each[2]) is float],
)
def test_no_number_is_nan_or_infinite_or_a_truth_value_or_without_a_limit(kind, name):
    for value in (math.nan, math.inf, -math.inf, "nan", "inf", "-Infinity", True, False, 1e300, -1e300, 10**400):
        assert try_value(kind, name, value)[1], value


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*each[:2], id=f"{each[0].__name__}.{each[1]}") for each in fields() if base(each[2]) is int],
)
def test_no_whole_number_is_without_a_limit(kind, name):
    for value in (10**30, -(10**30), 2.0**60, math.nan, True, "3"):
        assert try_value(kind, name, value)[1], value


def test_every_number_has_a_rule():
    for kind, name, hint in fields():
        if base(hint) in (int, float):
            assert get_origin(hint) is not None, f"{kind.__name__}.{name} takes any number"


@pytest.mark.parametrize(
    ("kind", "name", "taken", "refused"),
    [
        ("DistillConfig", "dropout", (-1, 0, 0.1, 0.999), (-0.5, -2, 1, 5)),
        ("DistillConfig", "learning_rate", (1e-12, 1), (0, -1e-3, 1.5, 1e9)),
        ("DistillConfig", "holdout", (0, 0.999), (1, -0.1)),
        ("DistillConfig", "adam_beta2", (0, 0.999), (1.0, 1.1)),
        ("DistillConfig", "max_length", (16, 512, 512.0), (0, 3, 15, 1_000_000, 512.5)),
        ("DistillConfig", "true_token", ("", "▁true", "Ġyes"), (" ", "a\nb")),
        ("DistillConfig", "layers", (3, [0, 2], []), (-1, "3", [0.5])),
        ("DistillConfig", "layer_decay", (0.5, 1), (0, 1.1)),
        ("DistillConfig", "lora_rank", (0, 8, 4096), (-1, 0.5, 4097)),
        ("DistillConfig", "lora_alpha", (0, 0.5, 16), (-1,)),
        ("DistillConfig", "lora_dropout", (0, 0.1), (-1, 1)),
        ("ScoringConfig", "max_length", (16, 8192), (3, 10**6)),
        ("ScoringConfig", "true_token", ("", "yes"), (" ", "x" * 101)),
        ("GenerateConfig", "top_p", (0.01, 1), (0, 1.01)),
        ("GenerateConfig", "temperature", (0, 2), (-1, 11)),
        (
            "GenerateConfig",
            "endpoint",
            ("", "http://host:8000/v1", "https://a.b/c/v1"),
            ("host:8000", "ftp://host/v1", "http://", "http:///v1"),
        ),
        (
            "GenerateConfig",
            "endpoint",
            ("http://[::1]:8000/v1",),
            ("http://u:p@host/v1", "http://u@host", "https://host/v1?api_key=k"),
        ),
        ("PromoteConfig", "alpha", (0.001, 1), (0, 1.1)),
        (
            "PromoteConfig",
            "model_name",
            ("inranker", "my model.v2", "模型"),
            ("", ".", "..", "a/b", "a:b", "a@champion", "a-history", "-a", " a", "a ", "x" * 201),
        ),
        ("RetrieveConfig", "b", (0, 1), (-0.1, 1.1)),
        ("RetrieveConfig", "k1", (0, 0.9), (-1, 101)),
        (
            "CorpusConfig",
            "train_split",
            ("train", "dev-1", "train/judged"),
            ("", "..", "../x", "a b", "/etc/passwd", "a/../b"),
        ),
        ("CorporaConfig", "marker", ("_SUCCESS",), ("", "a/b")),
        ("ClusterConfig", "gpu_type", ("nvidia.com/gpu", "nvidia.com/mig-1g.5gb"), ("", "a b", "/gpu", "nvidia.com/")),
        (
            "ClusterConfig",
            "gpu_pool",
            ({}, {"nvidia.com/gpu.present": "true", "pool": ""}),
            ({"a b": "x"}, {"a": "x y"}, {"": "x"}, {"a": True}),
        ),
    ],
)
def test_limits(kind, name, taken, refused):
    for value in taken:
        assert not try_value(KINDS[kind], name, value)[1], value
    for value in refused:
        assert try_value(KINDS[kind], name, value)[1], value


@pytest.mark.parametrize(
    "address",
    [
        "http://anna:s3cret@host/v1",
        "https://s3cret@host/v1",
        "http://anna:s3/cret@host/v1",
        "HTTP://anna:s3cret@host/v1",
        "s3://KEY:s3cret@bucket/prefix",
        "https://host/v1?token=s3cret",
    ],
)
def test_an_address_with_a_password_is_refused_without_repeating_it(address):
    for kind, name in (
        (GenerateConfig, "endpoint"),
        (CorpusConfig, "uri"),
        (TeacherConfig, "checkpoint"),
    ):
        message = try_value(kind, name, address)[1]
        assert message.startswith(f"section.{name}: holds a user's name") and "s3cret" not in message
