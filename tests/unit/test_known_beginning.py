"""What all prompts begin with is read once, and nothing that is written depends on it."""

from __future__ import annotations

import pytest
import torch
import transformers

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.generation import prompts
from inranker_flow.generation.backends import load_backend
from inranker_flow.rankers import known_beginning
from tests import models, teachers

#: Of three lengths, so that a batch has padding between the beginning and the documents.
DOCUMENTS = [
    "a moon",
    "the bridge is in the north of the valley " * 3,
    "bread",
    "stone garden and river " * 5,
    "42",
    "(x)",
]


def load(checkpoint, **changes):
    defaults = {"prompt": "inpars-v1", "max_new_tokens": 12, "batch_size": 4, "dtype": "float32"}
    config = GenerateConfig(checkpoint, **{**defaults, **changes})
    return load_backend(config, prompts.load(config.prompt))


def write(backend):
    """Return the token ids of each document's queries, and what is told of them."""
    written, inner = [], backend._generate

    def spy(ids):
        rows, means = inner(ids)
        written.extend(rows.tolist())
        return rows, means

    backend._generate = spy
    told = backend.generate(DOCUMENTS, 5, lambda count: None)
    backend._generate = inner
    return written, told


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("changes", [{}, {"queries_per_document": 3, "temperature": 0.7, "keep_probable": 5}])
def test_the_same_tokens_are_written_with_and_without(kind, changes):
    backend = load(teachers.causal(kind), **changes)
    known, widths = backend.known, []
    assert known and len(known.ids) > 250, "the three examples"
    backend.model.register_forward_pre_hook(
        lambda _, __, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    written, told = write(backend)
    assert max(widths) < len(known.ids), "the examples were read once, when the model was loaded"
    assert write(backend)[0] == written, "a batch leaves nothing behind"
    backend.known = None
    again, told_again = write(backend)
    assert max(widths) > len(known.ids)
    assert written == again and told.texts == told_again.texts and told.cut == told_again.cut
    assert len({tuple(row) for row in written}) > 4, "else a mix-up of the rows would not show"
    if changes:
        flat = [[mean for means in each.log_probabilities for mean in means] for each in (told, told_again)]
        assert flat[0] == pytest.approx(flat[1], abs=1e-4)


def test_a_batch_with_a_prompt_that_begins_otherwise_is_written_as_before():
    backend = load(teachers.causal("llama"))
    ids, _ = backend.prompter.fit(DOCUMENTS[:3])
    other = [*ids, ids[0][5:]]
    found = backend._generate(other)[0].tolist()
    backend.known = None
    assert found == backend._generate(other)[0].tolist()


def test_models_whose_layers_keep_other_things_read_all_of_each_prompt():
    assert load(teachers.causal("gemma2")).known is None, "its windows are short"
    assert load(models.t5(), prompt="document").known is None, "an encoder looks both ways"
    assert load(teachers.causal("llama"), prompt="document").known is None, "nothing is alike"


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "linear"])
def test_positions_that_depend_on_the_whole_length_are_not_computed_before_it_is_known(kind):
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    config = transformers.LlamaConfig(**shape, max_position_embeddings=256, rope_parameters=rope)
    found = known_beginning.compute(transformers.LlamaForCausalLM(config).eval(), [1, 2, 3])
    assert (found is not None) == (kind == "linear")


def test_a_cache_with_room_gives_what_one_without_gives():
    keys, values = torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 5)
    cache = known_beginning.KnownBeginning([7, 8, 9], [(keys, values)]).to_continue(rows=2, tokens=3)
    assert cache.get_seq_length() == 3
    more = [(torch.rand(2, 2, 2, 4), torch.rand(2, 2, 2, 5)), (torch.rand(2, 2, 1, 4), torch.rand(2, 2, 1, 5))]
    for each in more:
        held = cache.update(*each, 0)
    for place, first in enumerate((keys, values)):
        assert torch.equal(
            held[place], torch.cat([first.expand(2, -1, -1, -1), *(each[place] for each in more)], dim=2)
        )
    assert cache.get_seq_length() == 6
