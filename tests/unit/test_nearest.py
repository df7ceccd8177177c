"""The nearest vectors are those of a plain sort, with the same scores whatever blocks and threads there are."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inranker_flow.retrieval.nearest import Nearest  # noqa: E402

CPU = torch.device("cpu")


def made(passages: int, dimensions: int, queries: int = 9) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    vectors, asked = (
        generator.standard_normal((count, dimensions)).astype(np.float32) for count in (passages, queries)
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), asked


def plain(vectors: np.ndarray, query: np.ndarray, depth: int) -> tuple[list[int], list[float]]:
    scores = np.array([np.einsum("nd,d->n", vector[None], query)[0] for vector in vectors])
    np.testing.assert_allclose(scores, vectors.astype(np.float64) @ query, rtol=1e-5, atol=1e-5)
    best = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:depth]
    return best, scores[best].tolist()


@pytest.mark.parametrize("depth", [1, 10, 300, 5000])
def test_they_are_those_of_a_plain_sort(depth):
    vectors, queries = made(2000, 48)
    for block in (17, 700, 4096):
        for query, (places, scores) in zip(queries, Nearest(vectors, CPU, block).find(queries, depth), strict=True):
            assert (places.tolist(), scores.tolist()) == plain(vectors, query, depth)


def test_ties_are_in_the_order_of_the_passages_also_at_the_cut():
    vectors, queries = made(40, 16)
    vectors = np.repeat(vectors, 25, axis=0)[np.random.default_rng(1).permutation(1000)]
    for depth in (10, 30, 60):
        for query, (places, scores) in zip(queries, Nearest(vectors, CPU, 128).find(queries, depth), strict=True):
            assert (places.tolist(), scores.tolist()) == plain(vectors, query, depth)


def test_threads_and_long_vectors_change_no_bit():
    vectors, queries = made(3000, 384)
    vectors *= 50
    found = []
    before = torch.get_num_threads()
    for threads, block in ((1, 3000), (2, 3000), (2, 100)):
        torch.set_num_threads(threads)
        found.append([(p.tolist(), s.tolist()) for p, s in Nearest(vectors, CPU, block).find(queries, 50)])
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_no_passage_and_no_query():
    empty, some = np.empty((0, 4), np.float32), np.ones((2, 4), np.float32)
    assert [len(places) for places, _ in Nearest(empty, CPU).find(some, 3)] == [0, 0]
    assert Nearest(some, CPU).find(empty, 3) == []
