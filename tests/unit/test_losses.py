"""Losses against plain recomputation with loops, as the papers write them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from inranker_flow.distillation.losses import (
    OBJECTIVES,
    Objective,
    by_query,
    ce,
    centred,
    delta,
    kendall,
    kl,
    lce,
    margin_mse,
    mse,
    ranknet,
)

SIZES = np.array([3, 1, 4, 2])


@pytest.fixture
def logits():
    """(student, teacher), float64, of ten pairs."""
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(10, 2, generator=random, dtype=torch.float64) * 3 for _ in range(2))
    return student.requires_grad_(), teacher


def groups(values):
    ends = np.cumsum(SIZES)
    return [values[end - size : end] for end, size in zip(ends, SIZES, strict=True)]


def test_mse_is_the_mean_over_both_logits_of_all_pairs(logits):
    student, teacher = logits
    by_hand = sum((student[i, k] - teacher[i, k]) ** 2 for i in range(10) for k in range(2)) / 20
    assert mse(student, teacher, SIZES).item() == pytest.approx(by_hand.item(), rel=1e-12)
    assert mse(student, teacher, SIZES).item() == pytest.approx(torch.nn.MSELoss()(student, teacher).item(), rel=1e-12)


def test_mse_is_a_quarter_of_the_margin_error_and_the_error_of_the_mean(logits):
    student, teacher = logits
    margin = (delta(student) - delta(teacher)).square().mean()
    level = (student.mean(1) - teacher.mean(1)).square().mean()
    assert mse(student, teacher, SIZES).item() == pytest.approx((margin / 4 + level).item(), rel=1e-12)


def test_centring_keeps_the_probability():
    raw = np.array([[1.0, 5.0], [-3.0, -9.0]])
    assert centred(raw).tolist() == [[-2.0, 2.0], [3.0, -3.0]]
    assert centred(raw)[:, 1] - centred(raw)[:, 0] == pytest.approx(raw[:, 1] - raw[:, 0])


def test_margin_mse_is_the_mean_over_pairs_of_documents(logits):
    student, teacher = (each[:9] for each in logits)
    sizes = np.array([3, 2, 4])
    expected, start = [], 0
    for size in sizes:
        s, t = delta(student)[start : start + size], delta(teacher)[start : start + size]
        start += size
        errors = [((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i in range(size) for j in range(i)]
        expected.append(sum(errors) / len(errors))
    assert margin_mse(student, teacher, sizes).item() == pytest.approx((sum(expected) / 3).item(), rel=1e-12)


def test_kl_is_that_of_the_two_softmaxes(logits):
    student, teacher = logits
    expected = []
    for s, t in zip(groups(delta(student)), groups(delta(teacher)), strict=True):
        p, q = t.softmax(0), s.softmax(0)
        expected.append(sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)))
    assert kl(student, teacher, SIZES).item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_ranknet_is_the_mean_over_pairs_that_the_teacher_orders(logits):
    student, teacher = logits
    student, teacher[5] = student.detach(), teacher[4]  # a tie is no order
    expected = []
    for s, t in zip(groups(delta(student)), groups(delta(teacher)), strict=True):
        losses = [math.log(1 + math.exp(s[j] - s[i])) for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
        expected.append(sum(losses) / len(losses) if losses else 0.0)
    assert expected[1] == 0.0 < min(expected[0], *expected[2:])
    assert ranknet(student, teacher, SIZES).item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_ranknet_sees_the_order_alone_and_stays_finite():
    student = torch.tensor([[0.0, 300.0], [0.0, -300.0], [0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, -1.0], [0.0, 5.0], [0.0, 2.0]])
    loss = ranknet(student, teacher, np.array([3]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert ranknet(student, 7 * teacher, np.array([3])).item() == loss.item()


@pytest.mark.parametrize("loss", [margin_mse, kl, ranknet])
def test_listwise_losses_see_differences_only(logits, loss):
    student, teacher = logits
    sizes = np.array([3, 3, 4])
    level = torch.tensor([5.0, -7.0, 1.0]).repeat_interleave(torch.tensor(sizes))
    moved = student + torch.stack([-level, level], dim=1)
    assert loss(moved, teacher, sizes).item() == pytest.approx(loss(student, teacher, sizes).item(), rel=1e-9)
    if loss is not ranknet:  # which wants ever larger differences
        assert loss(teacher, teacher, sizes).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_with_differences_whatever_the_padding(logits, name):
    student, teacher = logits
    sizes = np.array([2, 5, 3])
    assert torch.autograd.gradcheck(lambda s: OBJECTIVES[name][0](s, teacher, sizes), (student,))


def test_kl_stays_finite_for_saturated_teachers():
    student = torch.zeros(5, 2, requires_grad=True)
    teacher = torch.tensor([[-60.0, 60.0], [60.0, -60.0], [80.0, -80.0], [0.0, 0.0], [50.0, -50.0]])
    loss = kl(student, teacher, np.array([3, 2]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_a_batch_of_one():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert mse(student, teacher, np.array([1])).item() == 2.5
    assert kl(student, teacher, np.array([1])).item() == 0.0


def test_by_query_puts_each_pair_in_its_row():
    grid, mask = by_query(torch.arange(1.0, 11.0), SIZES)
    assert grid.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8], [9, 10, 0, 0]]
    assert mask.sum(1).tolist() == SIZES.tolist()


def test_kendall_agrees_with_scipy():
    random = np.random.default_rng(3)
    student, teacher = random.normal(size=(2, 10))
    expected = [kendalltau(s, t).statistic for s, t in zip(groups(student), groups(teacher), strict=True) if len(s) > 1]
    assert kendall(student, teacher, SIZES) == pytest.approx(np.mean(expected))
    assert kendall(teacher, teacher, SIZES) == 1.0 and kendall(-teacher, teacher, SIZES) == -1.0
    assert math.isnan(kendall(student, teacher, np.ones(10, dtype=int)))


# --- judgements -------------------------------------------------------------------------------------------------------

#: The first query has two relevant passages, the second (of one passage) no judgement, the third one, the fourth none.
RELEVANCE = torch.tensor([1, 0, 1, -1, 0, 0, 1, 0, -1, -1])


def test_ce_is_what_monot5_is_fine_tuned_with(logits):
    """Cross-entropy over {false, true} of every judged pair, over all pairs."""
    student, _ = logits
    by_hand = sum(
        -student[row].log_softmax(0)[relevance].item()
        for row, relevance in enumerate(RELEVANCE.tolist())
        if relevance >= 0
    )
    assert ce(student, RELEVANCE.double(), SIZES).item() == pytest.approx(by_hand / 10, rel=1e-12)


def test_lce_is_the_softmax_over_the_passages_of_a_query(logits):
    student, _ = logits
    total = 0.0
    for scores, relevance in zip(groups(delta(student)), groups(RELEVANCE), strict=True):
        logs = [(-scores.log_softmax(0)[row]).item() for row, value in enumerate(relevance.tolist()) if value == 1]
        total += sum(logs) / max(len(logs), 1)
    assert lce(student, RELEVANCE.double(), SIZES).item() == pytest.approx(total / 4, rel=1e-12)


@pytest.mark.parametrize("name", ["ce", "lce", "mse+ce", "kl+lce"])
def test_a_sum_of_losses(logits, name):
    student, teacher = logits
    both = {**OBJECTIVES, "ce": (ce, False), "lce": (lce, True)}
    found = Objective(name, weight=0.5)
    soft = [OBJECTIVES[each][0](student, teacher, SIZES) for each in name.split("+") if each in OBJECTIVES]
    judged = both[name.split("+")[-1]][0](student, RELEVANCE.double(), SIZES)
    expected = soft[0] + 0.5 * judged if soft else judged
    torch.testing.assert_close(found.loss(student, teacher, SIZES, RELEVANCE), expected)
    assert found.whole_queries == any(both[each][1] for each in name.split("+")) and found.reads_judgements
    assert torch.autograd.gradcheck(lambda s: found.loss(s, teacher, SIZES, RELEVANCE), (student,))
