from __future__ import annotations

import pytest

from inranker_flow.config.parsing import as_dict, parse
from inranker_flow.config.sections import CorpusConfig, DistillConfig, EvaluateConfig, TeacherConfig
from inranker_flow.errors import UserError


def test_numbers_that_kfp_turned_into_floats_are_accepted_for_integers():
    config = parse(DistillConfig, {"max_steps": 10.0, "learning_rate": 1}, "phase1")
    assert config.max_steps == 10 and isinstance(config.max_steps, int)
    assert isinstance(config.learning_rate, float)


def test_round_trip_through_plain_data():
    config = parse(TeacherConfig, {"checkpoint": "x", "scoring": {"max_length": 64, "batch_tokens": 99}}, "teacher")
    assert parse(TeacherConfig, as_dict(config), "teacher") == config


def test_yaml_floats_without_a_dot_are_numbers():
    assert parse(DistillConfig, {"learning_rate": "7e-5"}, "phase1").learning_rate == 7e-5


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (DistillConfig, {"lerning_rate": 1}, "phase1.lerning_rate: unknown key; did you mean 'learning_rate'?"),
        (DistillConfig, {"max_steps": 1.5}, "phase1.max_steps: expected int, got 1.5 (float)"),
        (DistillConfig, {"max_steps": True}, "phase1.max_steps: expected int, got True (bool)"),
        (DistillConfig, {"max_steps": -3}, "phase1.max_steps: -3 is below 0"),
        (DistillConfig, {"batch_size": 0}, "phase1.batch_size: 0 is below 1"),
        (DistillConfig, {"holdout": 1.5}, "phase1.holdout: 1.5 is above 1"),
        (DistillConfig, {"max_steps": float("inf")}, "phase1.max_steps: expected int, got inf"),
        (DistillConfig, {"learning_rate": float("nan")}, "phase1.learning_rate: expected float, got nan"),
        (DistillConfig, {"learning_rate": "nan"}, "phase1.learning_rate: expected float, got nan"),
        (DistillConfig, {"centre": 1}, "phase1.centre: expected bool, got 1 (int)"),
        (DistillConfig, {"learning_rate": "fast"}, "phase1.learning_rate: expected float, got 'fast' (str)"),
        (DistillConfig, {"loss": "hinge"}, "phase1.loss: 'hinge' is none of mse, margin_mse, kl"),
        (CorpusConfig, {"uri": "x"}, "phase1.name: missing; this key has no default"),
        (
            TeacherConfig,
            {"checkpoint": "x", "scoring": {"dtype": "int4"}},
            "phase1.scoring.dtype: 'int4' is not one of",
        ),
        (TeacherConfig, {"checkpoint": "x", "scoring": 5}, "phase1.scoring: expected a section with keys, got 5"),
        (EvaluateConfig, {"measures": "nDCG@10"}, "phase1.measures: expected a list, got 'nDCG@10'"),
        (EvaluateConfig, {"measures": ["nDCG@10", 5]}, "phase1.measures[1]: expected str, got 5"),
    ],
)
def test_what_is_wrong_is_named(kind, data, message):
    with pytest.raises(UserError) as caught:
        parse(kind, data, "phase1")
    assert message in str(caught.value)
