"""One phase of distillation: soft labels and a checkpoint in, a student out.

Phase 1 and phase 2 are this function with other inputs. It is killed and started again at no loss: everything that the
next step depends on is in one checkpoint file in the scratch folder.
"""

from __future__ import annotations

import io
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config import DistillConfig, as_dict
from inranker_flow.distillation.data import (
    Batch,
    Examples,
    Sampler,
    batches_by_length,
    hold_out,
    load_examples,
    with_several_documents,
)
from inranker_flow.distillation.losses import OBJECTIVES, Objective, delta, kendall
from inranker_flow.errors import UserError
from inranker_flow.manifest import FILENAME, write_manifest
from inranker_flow.progress import Progress
from inranker_flow.prompts import RENDERER_VERSION, Renderer
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage import atomic_folder, atomic_write, digest_file

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Steps whose losses stay on the device before they are read (reading makes a GPU wait).
READ_EVERY = 25
#: Points of the loss curve in training.json.
CURVE_POINTS = 200
#: Padded tokens in one batch of held-out pairs, for a CPU's caches and for a GPU.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4_096, 32_768


@dataclass(frozen=True)
class DistillStats:
    """What one phase did. Rates and seconds are of this process, after a resume too."""

    steps: int
    #: Labelled pairs and queries trained on, and queries held out.
    pairs: int
    queries: int
    heldout_queries: int
    parameters: int
    #: Mean training loss of the last tenth of the steps.
    final_train_loss: float
    best_step: int
    #: Before the first step and at the best one; None without held-out queries.
    start_heldout_loss: float | None
    heldout_loss: float | None
    #: Mean Kendall's tau with the teacher over the held-out queries, at the best step.
    heldout_kendall: float | None
    #: Steps that an earlier, killed attempt had done.
    resumed_step: int
    pairs_per_second: float
    seconds: float


@dataclass(frozen=True)
class Look:
    """The student on the held-out queries after ``step`` steps; values are None where they are not defined."""

    step: int
    loss: float
    kendall: float | None


@dataclass
class State:
    """What the next step depends on besides weights, optimiser and random numbers."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    best: Look | None = None
    #: Weights at the best look, on the CPU.
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def learning_rate(step: int, total: int, warmup: int, peak: float, final: float = 0.0) -> float:
    """Rate of the optimiser step number ``step`` (from 0) of ``total``.

    Linear warm-up from 0, then linear decay to ``final * peak`` at ``total``; with ``final`` = 0 that is
    peak * min(t / W, (T - t) / (T - W)), the official trainer's (InRanker, HF Trainer's ``linear`` schedule).
    """
    if step < warmup:
        return peak * step / warmup
    return peak * (final + (1 - final) * (total - step) / (total - warmup))


def plan(config: DistillConfig, steps_per_epoch: int) -> tuple[int, int]:
    """(steps in all, warm-up steps). A warm-up that would not end before the training does is cut to a tenth of it."""
    total = config.epochs * steps_per_epoch
    if config.max_steps > 0:
        total = min(total, config.max_steps)
    warmup = config.warmup_steps
    if warmup >= total:
        warmup = total // 10
        log.warning(
            "warmup_steps %s is not less than the %s steps of this training: warming up for %s steps instead",
            config.warmup_steps, total, warmup,
        )  # fmt: skip
    return total, warmup


def distill(config: DistillConfig, training_sets: Sequence[Path], start: Path | None, model: Path) -> DistillStats:
    """Train the student ``start`` (or ``config.checkpoint``) on labels/ folders and write the best one to ``model``.

    ``model`` becomes a plain Hugging Face folder (fp32 safetensors, tokenizer) with training.json and a manifest. The
    best step is the one with the lowest held-out *loss*: it uses every label of the held-out queries, while rank measures
    over a few hundred queries move in jumps; Kendall's tau is reported beside it. Raises :class:`UserError` for unusable
    input and when the loss stops being finite.
    """
    from inranker_flow.rankers.checkpoints import checkpoint_identity, label_token_ids, load_seq2seq

    started = time.monotonic()
    _check(config, model)
    if not training_sets:
        raise UserError("training_sets: none given; distillation needs at least one labels/ folder")
    reference, revision = (str(start), "") if start is not None else (config.checkpoint, config.revision)
    if not reference:
        raise UserError(
            "checkpoint: empty and no model to start from; name a checkpoint (google-t5/t5-small, a folder)"
        )
    student, tokenizer = load_seq2seq(reference, revision, dropout=config.dropout if config.dropout >= 0 else None)
    labels = label_token_ids(tokenizer, config.false_token, config.true_token)
    renderer = Renderer(tokenizer, config.max_length, config.truncation)
    examples = load_examples([Path(folder) for folder in training_sets], renderer, config.centre, config.seed)
    inputs = {
        "start": checkpoint_identity(reference, revision),
        "training_sets": [
            {"dataset": name, "digest": digest_file(Path(folder) / FILENAME)}
            for name, folder in zip(examples.names, training_sets, strict=True)
        ],
    }
    trainer = Trainer(config, examples, student, labels)
    folder = scratch_folder("distill", as_dict(config), inputs, RENDERER_VERSION)
    trainer.run(folder / "checkpoint.pt")
    _write(model, trainer, tokenizer, reference, inputs)
    shutil.rmtree(folder, ignore_errors=True)
    return trainer.stats(time.monotonic() - started)


def _check(config: DistillConfig, model: Path) -> None:
    """Refuse before hours of training what would be refused after them."""
    if model.exists() and any(model.iterdir()):
        raise UserError(f"{model}: exists and is not an empty folder; remove it or give another name")
    for name in ("batch_size", "epochs", "gradient_accumulation"):
        if getattr(config, name) < 1:
            raise UserError(f"{name}: {getattr(config, name)}; it must be 1 or more")
    if not 0 <= config.holdout < 1:
        raise UserError(f"holdout: {config.holdout}; it is a share of the queries, from 0 to less than 1")


class Trainer:
    """The training loop over ``examples`` for one student."""

    def __init__(self, config: DistillConfig, examples: Examples, student: Any, labels: tuple[int, int]) -> None:
        import torch
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        from inranker_flow.distillation.student import LabelLogits, quicken
        from inranker_flow.rankers.devices import limit_threads, pick_device, pick_dtype

        self.config, self.examples, self.student = config, examples, student
        self.objective: Objective = OBJECTIVES[config.loss]
        self.rows, self.heldout = _split(config, examples, self.objective)
        self.sampler = Sampler(examples, self.rows, self.objective.whole_queries, config.batch_size, config.seed)
        self.total, self.warmup = plan(config, self.sampler.steps_per_epoch)
        self.evaluate_every = config.evaluate_every or -(-self.total // 10)
        self.save_every = config.save_every or self.evaluate_every

        set_seed(config.seed)  # dropout
        self.accelerator = Accelerator(cpu=pick_device().type == "cpu", mixed_precision="no")
        # Not accelerate's own mixed precision: that is one per process, whatever the configuration of a second training.
        self.dtype = pick_dtype(config.precision, self.accelerator.device)
        if self.accelerator.num_processes > 1:
            raise UserError("distill: started as several processes; one process trains one student on one device")
        limit_threads(student)
        if self.accelerator.device.type == "cpu":
            quicken(student)
        weights = [p for p in student.parameters() if p.requires_grad]
        groups = [  # as the HF Trainer does: layer norms do not decay
            {"params": [p for p in weights if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, config.adam_beta2), eps=1e-8, fused=True)
        self.scorer, self.optimizer = self.accelerator.prepare(LabelLogits(student, labels), optimizer)
        self.state = State()
        self.resumed_step = 0
        self.pairs_per_second = 0.0

    def run(self, checkpoint: Path) -> None:
        """Train to the last step, from ``checkpoint`` if there is one; the student then has the best weights."""
        self._resume(checkpoint)
        state = self.state
        progress = Progress("distilling", round(self.total * self.sampler.mean_pairs), "pairs")
        progress.resume(round(self.state.step * self.sampler.mean_pairs))
        recent: list[Tensor] = []
        note = ""
        if not state.looks and len(self.heldout):
            self._look()
        self.scorer.train()
        while state.step < self.total:
            rate = learning_rate(
                state.step, self.total, self.warmup, self.config.learning_rate, self.config.final_learning_rate
            )
            loss, pairs = self._step(state.step, rate)
            recent.append(loss)
            state.step += 1
            last = state.step == self.total
            looks = last or state.step % self.evaluate_every == 0
            saves = state.step % self.save_every == 0
            if looks or saves or len(recent) == READ_EVERY:
                self._read(recent)
                note = f"step {state.step}, loss {np.mean(state.losses[-READ_EVERY:]):.4g}, learning rate {rate:.3g}"
            if looks and len(self.heldout):
                self._look()
            if saves and not last:
                self._save(checkpoint)
            progress.advance(pairs, note)
        self.pairs_per_second = progress.finish()
        if state.best:
            self._set_weights(state.best_weights)
            if state.best.loss >= state.looks[0].loss:
                log.warning(
                    "the held-out loss never fell below that of the start (%.4g): try a lower learning_rate, or more and "
                    "more varied labels", state.looks[0].loss,
                )  # fmt: skip
        elif not all(weight.isfinite().all() for weight in self.student.parameters()):
            raise self._diverged("a weight is not finite", state.step)

    def _step(self, step: int, rate: float) -> tuple[Tensor, int]:
        """One optimiser step; returns the mean loss of its batch (on the device) and its pairs."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total: Any = 0.0
        pairs = 0
        # Parts are weighted by what they hold, so that the gradient is that of the whole batch, a short last one too.
        for rows, share in self.sampler.pieces(step, self.config.gradient_accumulation):
            batch = self.examples.batch(rows)
            loss = self.objective.loss(*self._forward(batch), batch.sizes) * share
            self.accelerator.backward(loss)
            total = total + loss.detach()
            pairs += len(rows)
        if self.config.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.scorer.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, pairs

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(student, teacher) logits in fp32, both (pairs, 2) on the device."""
        import torch

        ids, mask, teacher = (
            torch.from_numpy(array).to(self.accelerator.device, non_blocking=True)
            for array in (batch.input_ids, batch.attention_mask, batch.teacher)
        )
        with torch.autocast(ids.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.scorer(ids, mask)
        return logits.float(), teacher

    def _read(self, recent: list[Tensor]) -> None:
        """Move the losses of the last steps to the state; raise at the first that is not finite."""
        import torch

        values = torch.stack(recent).tolist()
        recent.clear()
        for step, value in enumerate(values, self.state.step - len(values) + 1):
            if not math.isfinite(value):
                raise self._diverged(f"the training loss is {value}", step)
        self.state.losses.extend(values)

    def _diverged(self, what: str, step: int) -> UserError:
        if step == 0:
            return UserError(f"{what} before the first step: check the checkpoint to start from and the labels")
        return UserError(
            f"{what} at step {step} of {self.total}: lower learning_rate, lengthen warmup_steps or set precision to "
            "float32, and run again"
        )

    def _look(self) -> None:
        """Measure the student on the held-out queries and remember it if it is the best so far."""
        import torch

        state = self.state
        budget = CPU_BATCH_TOKENS if self.accelerator.device.type == "cpu" else GPU_BATCH_TOKENS
        student = np.empty((len(self.heldout), 2), dtype=np.float32)
        self.scorer.eval()
        with torch.inference_mode():
            for places in batches_by_length(self.examples.lengths(self.heldout), budget):
                logits, _ = self._forward(self.examples.batch(self.heldout[places]))
                student[places] = logits.cpu().numpy()
        self.scorer.train()
        scores, teacher = torch.from_numpy(student), torch.from_numpy(self.examples.teacher[self.heldout])
        sizes = self.examples.sizes(self.heldout)
        loss = float(self.objective.loss(scores, teacher, sizes))
        if not math.isfinite(loss):
            raise self._diverged(f"the held-out loss is {loss}", state.step)
        tau = kendall(delta(scores).numpy(), delta(teacher).numpy(), sizes)
        look = Look(state.step, loss, None if math.isnan(tau) else tau)
        state.looks.append(look)
        # The start itself is measured, for comparison, but a phase hands on what it trained.
        better = state.step > 0 and (state.best is None or loss < state.best.loss)
        if better:
            state.best, state.best_weights = look, self._weights()
        log.info(
            "step %s of %s: held-out loss %.4g, Kendall's tau with the teacher %.3f%s",
            state.step, self.total, loss, tau, ", the best so far" if better else "",
        )  # fmt: skip

    def _weights(self) -> dict[str, Tensor]:
        """Copies on the CPU; tied weights once."""
        return {name: weight.detach().to("cpu", copy=True) for name, weight in self.student.named_parameters()}

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self.student.named_parameters():
                weight.copy_(weights[name])

    def _save(self, checkpoint: Path) -> None:
        """Write everything that the next step depends on; a kill leaves the checkpoint before or this one."""
        import torch

        state = self.state
        content = {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all(),
            "step": state.step,
            "losses": state.losses,
            "looks": [asdict(look) for look in state.looks],
            "best": asdict(state.best) if state.best else None,
            "best_weights": state.best_weights,
        }
        # In memory first: torch's own writer turns a full disk into an error of its zip file.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_write(checkpoint) as out:
            out.write(buffer.getbuffer())

    def _resume(self, checkpoint: Path) -> None:
        import torch

        if not checkpoint.exists():
            return
        try:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever damaged bytes lead the unpickler to
            log.warning("%s: not readable, starting from the first step (%s)", checkpoint, error)
            return
        self._set_weights(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["random"])
        if len(content["cuda_random"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(content["cuda_random"])
        self.state = State(
            step=content["step"],
            losses=content["losses"],
            looks=[Look(**look) for look in content["looks"]],
            best=Look(**content["best"]) if content["best"] else None,
            best_weights=content["best_weights"],
        )
        self.resumed_step = self.state.step
        log.info("continuing after step %s of %s", self.state.step, self.total)

    def stats(self, seconds: float) -> DistillStats:
        """Numbers of a training that has ended."""
        state, examples = self.state, self.examples
        return DistillStats(
            steps=self.total,
            pairs=len(self.rows),
            queries=len(np.unique(examples.query[self.rows])),
            heldout_queries=len(np.unique(examples.query[self.heldout])),
            parameters=sum(weight.numel() for weight in self.student.parameters()),
            final_train_loss=float(np.mean(state.losses[-max(self.total // 10, 1) :])),
            best_step=state.best.step if state.best else self.total,
            start_heldout_loss=state.looks[0].loss if state.looks else None,
            heldout_loss=state.best.loss if state.best else None,
            heldout_kendall=state.best.kendall if state.best else None,
            resumed_step=self.resumed_step,
            pairs_per_second=self.pairs_per_second,
            seconds=seconds,
        )

    def record(self) -> dict[str, Any]:
        """training.json: what happened, without times, so that equal trainings write equal folders."""
        state = self.state
        size = -(-self.total // CURVE_POINTS)
        return {
            "config": as_dict(self.config),
            "steps": self.total,
            "warmup_steps": self.warmup,
            "steps_per_epoch": self.sampler.steps_per_epoch,
            "best_step": state.best.step if state.best else self.total,
            "looks": [asdict(look) for look in state.looks],
            # Mean loss of the steps up to and including `step`, since the point before.
            "train_loss": [
                {"step": min(at + size, self.total), "loss": float(np.mean(state.losses[at : at + size]))}
                for at in range(0, self.total, size)
            ],
            "sets": {
                f"{place} {name}": {
                    "pairs": int(np.count_nonzero(self._in_set(self.rows, place))),
                    "heldout_pairs": int(np.count_nonzero(self._in_set(self.heldout, place))),
                }
                for place, name in enumerate(self.examples.names, 1)
            },
            "precision": str(self.dtype).removeprefix("torch."),
            # What serving needs too; whoever registers the model may have none of them installed.
            "versions": {name: version(name).partition("+")[0] for name in ("torch", "transformers", "numpy")},
        }

    def _in_set(self, rows: np.ndarray, place: int) -> np.ndarray:
        return self.examples.set_of[self.examples.query[rows]] == place - 1


def _split(config: DistillConfig, examples: Examples, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the pairs to train on, rows of the held-out pairs), both ordered by query."""
    rows = np.arange(len(examples.query))
    if objective.whole_queries:
        rows = with_several_documents(examples)
        if len(rows) < len(examples.query):
            log.warning(
                "%s of %s pairs are left out: the only labelled document of their query has no order to learn from",
                len(examples.query) - len(rows), len(examples.query),
            )  # fmt: skip
        if not len(rows):
            raise UserError(f"loss: {config.loss} compares the documents of a query, but no query has two; use mse")
    held = hold_out(examples, rows, config.holdout, config.holdout_max_queries)
    if held.all():
        raise UserError(f"holdout: {config.holdout} of the queries leaves none to train on; lower it")
    if not held.any():
        log.warning("no query is held out (holdout %s): the last step is taken, not the best", config.holdout)
    return rows[~held], rows[held]


def _lineage(reference: str) -> list[dict[str, Any]]:
    """What the phases before this one recorded, the first one first: where the student comes from and what it saw."""
    earlier = Path(reference) / "training.json"
    if not earlier.is_file():
        return []
    record = json.loads(earlier.read_text(encoding="utf-8"))
    return [*record.get("lineage", []), {key: record[key] for key in ("start", "inputs", "sets")}]


def _write(model: Path, trainer: Trainer, tokenizer: Any, reference: str, inputs: dict[str, Any]) -> None:
    """The student as a plain Hugging Face folder with its record, complete or not at all."""
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {
        "start": reference,
        "inputs": inputs,
        "lineage": _lineage(reference),
        "versions": versions,
        **trainer.record(),
    }
    student = trainer.student
    # transformers 5 says "tied" for T5 v1.1 too, whose output matrix is its own; other versions would tie it on loading.
    student.config.tie_word_embeddings = student.get_output_embeddings().weight is student.get_input_embeddings().weight
    with atomic_folder(model) as folder:
        student.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_manifest(
            folder,
            dataset="+".join(trainer.examples.names),
            stage="distill",
            start=reference,
            best_step=record["best_step"],
            inputs=inputs,
        )
