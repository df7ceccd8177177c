"""The dense first stage on a GPU finds what it finds on the CPU, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inranker_flow.retrieval.nearest import Nearest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_the_nearest_vectors_are_those_of_the_cpu():
    generator = np.random.default_rng(5)
    vectors, queries = (generator.standard_normal((count, 384)).astype(np.float32) for count in (50_000, 64))
    vectors[100:200] = vectors[:100]
    for depth in (1, 10, 1000):
        one, other = (Nearest(vectors, torch.device(kind), 7_000).find(queries, depth) for kind in ("cpu", "cuda"))
        for (places, scores), (others, same) in zip(one, other, strict=True):
            assert places.tolist() == others.tolist() and scores.tolist() == same.tolist()
