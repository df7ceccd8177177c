"""Rebuild the three miniature models from a seed: `python -m inranker_flow.demo.build --seed 1 --out FOLDER`.

Each lesson must reach its accuracy, otherwise the build ends with an error; the models are put in place together, when
all of them are good.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, get_args

from inranker_flow.demo import world
from inranker_flow.demo.curriculum import STUDENT_STAGES, TEACHER_STAGES, MakeGroup, Stage, sentences
from inranker_flow.demo.models import GENERATOR, STUDENT, TEACHER, Size, blank
from inranker_flow.demo.vocabulary import EOS, FALSE, IDS, PAD, TRUE, build_tokenizer, prompt_ids, word_ids

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import T5ForConditionalGeneration

WINDOW = 20  # steps over which accuracy is averaged
POINTWISE = 0.25  # weight of "true or false?" beside "which of these?"
CENTRE = 0.02  # keeps the mean of the two logits near zero, where the distillation targets are
LOGIT_SIZE = 3.0  # mean size of a finished reranker's logits: far larger ones would cost the student steps to reach


class GateNotReached(RuntimeError):
    """A lesson did not reach its accuracy."""


def pad(rows: Iterable[list[int]], filler: int = IDS[PAD]) -> Tensor:
    """Return rows of ids as one matrix."""
    import torch

    rows = list(rows)
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def logits(model: T5ForConditionalGeneration, prompts: Iterable[list[int]]) -> Tensor:
    """Return the logits of "false" and "true" for each prompt."""
    import torch

    ids = pad(prompts)
    start = torch.full((len(ids), 1), IDS[PAD])
    output = model(input_ids=ids, attention_mask=(ids != IDS[PAD]).long(), decoder_input_ids=start, use_cache=False)
    answer: Tensor = output.logits[:, 0, [FALSE, TRUE]]
    return answer


def teach(model: T5ForConditionalGeneration, stages: list[Stage], random: Random, say: Callable[[str], None]) -> None:
    """Train a reranker through its lessons."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    done = 0
    for stage in stages:
        recent: deque[float] = deque(maxlen=WINDOW)
        for step in range(1, stage.limit + 1):
            groups = [stage.make(random) for _ in range(stage.groups)]
            pairs = logits(model, (prompt_ids(g.query, d) for g in groups for d in g.documents))
            difference = (pairs[:, 1] - pairs[:, 0]).view(len(groups), -1)
            right = torch.zeros_like(difference)
            right[:, 0] = 1.0
            loss = (
                F.cross_entropy(difference, torch.zeros(len(groups), dtype=torch.long))
                + POINTWISE * F.binary_cross_entropy_with_logits(difference, right)
                + CENTRE * pairs.mean(dim=1).square().mean()
            )
            done += 1
            decay = 1.0 - 0.9 * step / stage.limit if stage.fixed else 1.0
            _update(model, optimizer, loss, stage.learning_rate * decay * min(1.0, done / 20))
            recent.append((difference.argmax(dim=1) == 0).float().mean().item())
            accuracy = sum(recent) / len(recent)
            if step % 50 == 0:
                say(f"{stage.name} step {step}: accuracy {accuracy:.3f}")
            if not stage.fixed and len(recent) == WINDOW and accuracy >= stage.gate:
                break
        if accuracy < stage.gate:
            raise GateNotReached(
                f"lesson {stage.name!r} reached accuracy {accuracy:.3f} in {stage.limit} steps, below its gate "
                f"{stage.gate}; try another --seed"
            )
        say(f"{stage.name} done after {step} steps: accuracy {accuracy:.3f}")


def _update(model: T5ForConditionalGeneration, optimizer: object, loss: Tensor, learning_rate: float) -> None:
    import torch

    assert isinstance(optimizer, torch.optim.Optimizer)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def build_reranker(
    size: Size, stages: list[Stage], seed: int, say: Callable[[str], None]
) -> T5ForConditionalGeneration:
    """Return a new reranker that has passed all its lessons."""
    import torch

    torch.manual_seed(seed)
    model = blank(size)
    teach(model, stages, Random(seed), say)
    soften(model.eval(), stages[-1].make, Random(seed))
    return model


def soften(model: T5ForConditionalGeneration, make: MakeGroup, random: Random) -> None:
    """Give the logits a moderate size; no order changes, because the two answers are words of no prompt."""
    import torch

    groups = [make(random) for _ in range(100)]
    with torch.no_grad():
        pairs = logits(model, (prompt_ids(g.query, d) for g in groups for d in g.documents))
        size = (pairs[:, 1] - pairs[:, 0]).abs().mean() / 2
        model.shared.weight[[FALSE, TRUE]] *= LOGIT_SIZE / size


GENERATOR_STEPS = 700
GENERATOR_BATCH = 64
GENERATOR_RATE = 3e-3
GENERATOR_GATE = 0.97  # share of sampled queries that name the entity and the concept


def build_generator(seed: int, say: Callable[[str], None]) -> T5ForConditionalGeneration:
    """Return a sequence-to-sequence model that writes a query for a passage."""
    import torch

    torch.manual_seed(seed)
    random = Random(seed)
    model = blank(GENERATOR)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    for step in range(1, GENERATOR_STEPS + 1):
        examples = [_passage_and_query(random) for _ in range(GENERATOR_BATCH)]
        ids = pad([*word_ids(passage), IDS[EOS]] for passage, _, _ in examples)
        labels = pad(([*word_ids(query), IDS[EOS]] for _, query, _ in examples), filler=-100)
        loss = model(input_ids=ids, attention_mask=(ids != IDS[PAD]).long(), labels=labels).loss
        decay = 1.0 - 0.95 * step / GENERATOR_STEPS
        _update(model, optimizer, loss, GENERATOR_RATE * decay * min(1.0, step / 20))
        if step % 100 == 0:
            say(f"step {step}: loss {loss.item():.3f}")
    model.eval()
    accuracy = generator_accuracy(model, random)
    if accuracy < GENERATOR_GATE:
        raise GateNotReached(f"only {accuracy:.3f} of the sampled queries fit, below {GENERATOR_GATE}; another --seed?")
    say(f"done: {accuracy:.3f} of the sampled queries fit their passage")
    return model


def _passage_and_query(random: Random) -> tuple[str, str, world.Concept]:
    concept = random.choice(world.CONCEPTS[random.choice(get_args(world.Domain))])
    entity = f"{random.choice(world.ADJECTIVES)} {random.choice(world.NOUNS)}"
    return f"{entity} {world.passage_text(concept, random)}", world.query_text(entity, concept, random), concept


def generator_accuracy(model: T5ForConditionalGeneration, random: Random, passages: int = 400) -> float:
    """Return the share of queries, sampled at temperature 0.7, that name the entity of their passage and its concept."""
    import torch

    tokenizer = build_tokenizer()
    examples = [_passage_and_query(random) for _ in range(passages)]
    ids = pad([*word_ids(passage), IDS[EOS]] for passage, _, _ in examples)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=(ids != IDS[PAD]).long(), do_sample=True, temperature=0.7, top_k=0
        )
    good = 0
    queries = tokenizer.batch_decode(output, skip_special_tokens=True)
    for (passage, _, concept), query in zip(examples, queries, strict=True):
        words = query.split()
        good += set(passage.split()[:2]) < set(words) and any(word in words for word in concept.query_words)
    return good / passages


def save(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Write a Hugging Face folder and check that it reads back as the same model."""
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration, T5Tokenizer

    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    build_tokenizer().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, T5Tokenizer), type(tokenizer)
    again, info = T5ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    group = sentences("source", "target")(Random(0))
    prompts = [prompt_ids(group.query, document) for document in group.documents]
    with torch.no_grad():
        assert torch.equal(logits(model, prompts), logits(again.eval(), prompts))


def build(seed: int, out: Path, only: str = "") -> None:
    """Build all three models (or one), then put them in place."""
    begin = time.process_time()
    aside = out.with_name(out.name + ".building")
    shutil.rmtree(aside, ignore_errors=True)

    def said_by(name: str) -> Callable[[str], None]:
        return lambda line: print(f"{time.process_time() - begin:6.1f} s  {name}: {line}", flush=True)

    makers: dict[str, Callable[[], T5ForConditionalGeneration]] = {
        "student": lambda: build_reranker(STUDENT, STUDENT_STAGES, seed, said_by("student")),
        "teacher": lambda: build_reranker(TEACHER, TEACHER_STAGES, seed, said_by("teacher")),
        "generator": lambda: build_generator(seed, said_by("generator")),
    }
    names = [name for name in makers if only in ("", name)]
    try:
        for name in names:
            save(makers[name](), aside / name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True)
        (aside / name).rename(out / name)
    aside.rmdir()
    size = sum(file.stat().st_size for file in chain.from_iterable((out / name).iterdir() for name in names))
    print(f"{out}: {', '.join(names)}, {size / 1e6:.2f} MB, {time.process_time() - begin:.0f} CPU seconds")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Rebuild the miniature teacher, student and generator from a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("teacher", "student", "generator"), default="")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    build(arguments.seed, arguments.out, arguments.only)


if __name__ == "__main__":
    main()
