"""Names of measures: what is accepted can be computed for any ids, and be logged to MLflow."""

from __future__ import annotations

import ir_measures
import pyarrow as pa
import pytest

from inranker_flow.errors import UserError
from inranker_flow.evaluation import measures
from inranker_flow.tracking.values import metric_name
from tests.refusals import refuses

ACCEPTED = (
    "nDCG@10", "nDCG", "nDCG(judged_only=True)@5", "nDCG(gains={0:0,1:1,2:3})@10", "P(rel=2)@10", "P@1", "RR@10", "RR", "R@100",
    "RR(rel=2)@10", "AP", "AP@1000", "Rprec", "Bpref", "infAP", "Success@3", "IPrec@0.5", "SetP", "SetF", "Judged@10", "NumRet",
    "Compat(p=0.8)", "P(rel=2, judged_only=True)@10",
)  # fmt: skip
REFUSED = (
    "", " ", "foo@10", "ndcg_cut_10", "nDCG@", "nDCG@0", "nDCG@-1", "nDCG@ten", "nDCG@10.5", "nDCG@1e3", "nDCG@True", "P",
    "nDCG@10**9", f"R@{10**30}", "R@100001", "nDCG(dcg='x')@10", "nDCG(dcg='exp-log2')@10", "ERR@10", "ERR", "Judged@0", "RR@0",
    "P(rel=0)@5", "P(rel=-1)@5", "P(rel='a')@5", f"P(rel={10**20})@5", "P(foo=1)@5", "P(2)@5", "P(**{})@5", "Compat(p=2)",
    "SetF(beta=0)", "IPrec@5", "nDCG(gains={})@10", "nDCG(gains={1:-1})@10", f"nDCG(gains={{1:{10**12}}})@10", "alpha_nDCG@10",
    "RBP(rel=1)", "nDCG@10; import os", "__import__('os')", "(" * 90 + "1" + ")" * 90, "-" * 200 + "1", "nDCG@10\0",
    "Accuracy", "Accuracy@10",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_for_every_id_is_refused_by_name(name):
    with pytest.raises(UserError) as caught:
        measures.parse([name])
    message = str(caught.value)
    assert message.startswith("evaluation.measures: ") and len(message.splitlines()) == 1 and len(message) < 400


def test_every_measure_of_the_library_is_computed_or_refused():
    """With a cutoff and without; what is accepted has a finite value for each query, whatever its id looks like."""
    run = pa.table({"query_id": ["query one", "7"], "doc_id": ["文書 1", "d-2"], "rank": [1, 1]})
    qrels = {"query one": {"文書 1": 1, "x": 0}, "7": {"x": 2}}
    accepted = 0
    for name in ir_measures.measures.registry:
        for full in (name, f"{name}@10", f"{name}(rel=1)", f"{name}(rel=2)@3", f"{name}(judged_only=True)@3"):
            try:
                parsed = measures.parse([full])
            except UserError:
                continue
            found = measures.per_query(parsed, qrels, run)[full]
            assert set(found) == set(qrels) and all(value >= 0 for value in found.values()), full
            accepted += 1
    assert accepted > 40


def test_all_accepted_names_are_names_of_mlflow_and_differ_there():
    from mlflow.utils.validation import _validate_metric_name  # what its client and its server ask

    for name in measures.parse(ACCEPTED):
        for key in (name, f"{name}/mean/phase 2/a.b", f"{name}/mean/bm25/c-d_e"):
            _validate_metric_name(metric_name(key))
    assert len({metric_name(name) for name in ACCEPTED}) == len(ACCEPTED)
    assert metric_name("nDCG@10/mean/phase2") == "nDCG_at_10/mean/phase2"
    assert metric_name("P(rel=2)@10") == "P_rel_2_at_10"


@pytest.mark.parametrize(
    "names",
    [
        ["nDCG@10", "nDCG@10"],
        ["nDCG@10", "NDCG@10"],
        ["RR@10", "MRR@10"],
        ["P(rel=1)@5", "P@5"],
        ["P@5", "Precision@5"],
    ],
)
def test_one_measure_under_two_names_is_refused(names):
    with refuses("measure-twice"):
        measures.parse(names)


@pytest.mark.parametrize(
    ("name", "depth", "apart"),
    [
        ("nDCG@10", 100, True),
        ("nDCG@10", 5, True),
        ("nDCG@10", 1, False),
        ("R@100", 100, False),
        ("R@100", 101, True),
        ("R@100", 20, False),
        ("R(rel=2)@10", 20, True),
        ("AP@1000", 100, True),
        ("RR", 100, True),
        ("Rprec", 50, True),
        ("Bpref", 50, True),
        ("nDCG(judged_only=True)@10", 50, True),
        ("Success@1", 2, True),
        ("Success@20", 20, False),
        ("SetP", 100, False),
        ("NumRet", 100, False),
        ("NumRel", 100, False),
        ("Judged@10", 100, False),
    ],
)
def test_whether_a_measure_can_tell_orders_of_the_candidates_apart(name, depth, apart):
    assert measures.tells_orders_apart(name, depth) is apart


@pytest.mark.parametrize("grade", [-1, -2, -5, -(2**31)])
def test_a_query_of_which_all_is_worse_than_nothing_has_no_value_and_ends_no_process(grade):
    """TREC's web tracks grade spam with -2."""
    run = pa.table({"query_id": ["a", "b"], "doc_id": ["x", "x"], "rank": [1, 1]})
    for name in ("nDCG@10", "RR@10", "AP", "R@100", "P@5", "Rprec"):
        found = measures.per_query(measures.parse([name]), {"a": {"x": 1, "y": grade}, "b": {"x": grade}}, run)[name]
        assert found["a"] > 0 and found["b"] == 0
