"""The training loop of a student.

It is killed and started again at no loss: everything that the next step depends on is in one checkpoint file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation import optimizer
from inranker_flow.distillation.batch_sampling import Sampler, batches_by_length
from inranker_flow.distillation.checkpoints import Checkpoint
from inranker_flow.distillation.data import Batch, Examples
from inranker_flow.distillation.holdout import training_and_heldout
from inranker_flow.distillation.losses import Objective, delta, kendall
from inranker_flow.distillation.processes import Processes
from inranker_flow.distillation.schedule import learning_rate, plan
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress, point
from inranker_flow.rankers.batches import PAD_TO
from inranker_flow.rankers.devices import limit_threads, pick_dtype
from inranker_flow.students import layers
from inranker_flow.students.base import Student

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Steps whose losses stay on the device before they are read (reading makes a GPU wait).
READ_EVERY = 25
#: Points of the loss curve in training.json.
CURVE_POINTS = 200
#: Padded tokens in one batch of held-out pairs, and in one part of a training batch: a CPU's caches and a GPU's memory.
LOOK_TOKENS = {"cpu": 4_096, "cuda": 32_768}
#: For models as wide as t5-small or wider; narrower ones take more at once.
STEP_TOKENS, _WIDTH = {"cpu": 2_048, "cuda": 16_384}, 512
#: Tokens of prompts that are padded to the longest of a batch, and to no multiple.
_SHORT = 64


@dataclass(frozen=True)
class DistillStats:
    """Counts and losses of one phase. Rates and seconds are of this process, after a resume too."""

    steps: int
    #: Labelled pairs and queries trained on, and queries held out.
    pairs: int
    queries: int
    heldout_queries: int
    parameters: int
    #: Mean training loss of the last tenth of the steps; None for a merged student.
    final_train_loss: float | None
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
    """The state of a training besides weights and optimiser."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    best: Look | None = None
    #: Weights at the best look, on the CPU.
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """The training loop over ``examples`` for one student."""

    def __init__(self, config: DistillConfig, examples: Examples, student: Student) -> None:
        self.config, self.examples, self.student, self.model = config, examples, student, student.model
        self.objective = Objective(config.loss, config.judged_weight)
        self.rows, self.heldout = training_and_heldout(config, examples, self.objective)
        self.sampler = Sampler(
            examples,
            self.rows,
            self.objective.whole_queries,
            config.batch_size,
            config.seed,
            config.batching == "grouped",
        )
        self.total, self.warmup = plan(config, self.sampler.steps_per_epoch)
        self.evaluate_every = config.evaluate_every or -(-self.total // 10)
        self.save_every = config.save_every or self.evaluate_every

        self.processes = Processes()
        self.device = self.processes.device
        low_weights = config.precision == "bfloat16-weights"
        self.dtype = pick_dtype("bfloat16" if low_weights else config.precision, self.device)
        self.precision = config.precision if low_weights else str(self.dtype).removeprefix("torch.")
        # Of short prompts even a few tokens of padding are a large part.
        short = examples.lengths(self.rows).max() <= _SHORT
        self.pad_to = 1 if short else PAD_TO[self.dtype.itemsize]
        self.step_tokens = config.micro_batch_tokens or STEP_TOKENS[self.device.type] * max(_WIDTH // student.width, 1)
        limit_threads(self.model)
        self.model.to(self.device)
        self.scorer = student.scorer(config.gradient_checkpointing).to(self.device)
        #: What the optimiser moves, by name: the student's weights, or their masters in fp32.
        self.weights: dict[str, Tensor] = optimizer.trained(self.model, config.freeze_embeddings)
        #: What it does not, in fp32 and off the device, where the student computes in less.
        self.frozen: dict[str, Tensor] = {}
        if low_weights:
            rest = {name: each for name, each in self.model.named_parameters() if name not in self.weights}
            self.frozen = {name: each.detach().to("cpu", copy=True) for name, each in rest.items()}
            self.weights = {name: each.detach().clone() for name, each in self.weights.items()}
            self.model.to(self.dtype)
        self.masters = low_weights
        self.optimizer = optimizer.adamw(self.weights, config, layers.total(self.model.config), self.device)
        self.state = State()
        self.resumed_step = 0
        self.pairs_per_second = 0.0

    def run(self, checkpoint: Checkpoint) -> None:
        """Train to the last step, from ``checkpoint`` if there is one; the student then has the best weights."""
        with checkpoint:
            self._resume(checkpoint)
            self._steps(checkpoint)
        state = self.state
        if self.masters:
            self.model.float()
        if self.masters or state.best:
            self._set_weights(state.best_weights if state.best else self.weights)
            self._copy(self.frozen)
        if state.best:
            if state.best.loss >= state.looks[0].loss:
                log.warning(
                    "the held-out loss never fell below that of the start (%.4g): try a lower learning_rate, or more and "
                    "more varied labels", state.looks[0].loss,
                )  # fmt: skip
        elif not all(weight.isfinite().all() for weight in self.weights.values()):
            raise self._diverged("a weight is not finite", state.step)
        self.student.finish()

    def measure(self, steps: int) -> None:
        """Measure the student as it is on the held-out queries: the merged one, of trainings of so many ``steps`` together."""
        self.total = self.state.step = steps
        if len(self.heldout):
            self._look()
        self.student.finish()

    def _steps(self, checkpoint: Checkpoint) -> None:
        """The steps that are left."""
        state = self.state
        progress = Progress("distilling", round(self.total * self.sampler.mean_pairs), "pairs", points=False)
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
                mean = float(np.mean(state.losses[-READ_EVERY:]))
                note = f"step {state.step}, loss {mean:.4g}, learning rate {rate:.3g}"
                told = {"loss": mean, "learning_rate": rate, "pairs_per_second": progress.rate}
                point(state.step, {f"training/{name}": value for name, value in told.items()})
            if looks and len(self.heldout):
                self._look()
            if saves and not last:
                self._save(checkpoint)
            progress.advance(pairs * self.processes.count, note)
        self.pairs_per_second = progress.finish()

    def _step(self, step: int, rate: float) -> tuple[Tensor, int]:
        """Take one optimiser step; return this process's part of the batch's mean loss (on the device) and its pairs."""
        import torch

        optimizer.set_rate(self.optimizer, rate)
        while True:
            try:
                total, pairs = self._gradient(step)
                break
            except torch.OutOfMemoryError as error:
                self._halve(error)
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        self.processes.add_up(gradients)
        if self.config.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masters:
            self._copy(self.weights)
        return total, pairs

    def _gradient(self, step: int) -> tuple[Tensor, int]:
        """Leave this process's part of the step's gradient in ``weights``; returns its part of the loss and its pairs."""
        import torch

        # Dropout of a step depends on the seed and the step alone, whatever happened before.
        seeds = np.random.SeedSequence([self.config.seed, step, self.processes.rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        total = torch.zeros((), device=self.device)
        pairs = 0
        # Parts are weighted by what they hold, so that the gradient is that of the whole batch, a short last one too.
        for rows, share in self.sampler.pieces(
            step, self.step_tokens, self.processes.rank, self.processes.count, self.pad_to
        ):
            batch = self.examples.batch(rows, self.pad_to)
            student, teacher, relevance = self._forward(batch)
            loss = self.objective.loss(student, teacher, batch.sizes, relevance) * share
            loss.backward()
            if self.masters:
                self._add_to_masters()
            total += loss.detach()
            pairs += len(rows)
        if self.processes.count > 1:
            for name in self._trained():  # a process without pairs adds nothing, but it must add it
                weight = self.weights[name]
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        return total, pairs

    def _trained(self) -> list[str]:
        """Return names of the weights that get a gradient, the same in every process."""
        return [name for name in self.weights if self.student.has_gradient(name)]

    def _halve(self, error: Exception) -> None:
        """Half as many tokens at once from now on; what this step had summed up is forgotten."""
        import torch

        self.optimizer.zero_grad()
        self.model.zero_grad()
        torch.cuda.empty_cache()
        longest = int(self.examples.lengths(self.rows).max())
        if self.step_tokens <= longest:
            raise UserError(
                f"the device runs out of memory with the smallest part of a batch (one prompt of {longest} tokens, or those "
                "of one query): set gradient_checkpointing: true or precision: bfloat16-weights, shorten max_length, or "
                "take a larger device or a smaller student",
                code="out-of-memory",
            ) from error
        self.step_tokens = max(self.step_tokens // 2, longest)
        log.warning("out of memory: from now on at most %s tokens at once", f"{self.step_tokens:,}")

    def _add_to_masters(self) -> None:
        """Move the bf16 gradient of one part into the sum in fp32."""
        for name, low in self.model.named_parameters():
            if low.grad is None:
                continue
            weight = self.weights[name]
            if weight.grad is None:
                weight.grad = low.grad.to(weight.dtype)
            else:
                weight.grad += low.grad
            low.grad = None

    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in fp32 into the student."""
        import torch

        with torch.no_grad():
            for name, low in self.model.named_parameters():
                if name in weights:
                    low.copy_(weights[name])

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return (student, teacher) logits in fp32, both (pairs, 2), and the pairs' relevance (pairs,), on the device."""
        import torch

        arrays = [torch.from_numpy(array) for array in (*batch.inputs, batch.teacher, batch.relevance)]
        if self.device.type == "cuda":  # a copy from pinned memory does not make the CPU wait
            arrays = [array.pin_memory() for array in arrays]
        *inputs, teacher, relevance = (array.to(self.device, non_blocking=True) for array in arrays)
        autocast = self.dtype != torch.float32 and not self.masters
        with torch.autocast(teacher.device.type, self.dtype, enabled=autocast):
            logits = self.scorer(*inputs)
        return logits, teacher, relevance

    def _read(self, recent: list[Tensor]) -> None:
        """Move the losses of the last steps to the state; raise at the first that is not finite."""
        import torch

        losses = torch.stack(recent)
        recent.clear()
        self.processes.add_up([losses])
        values = losses.tolist()
        for step, value in enumerate(values, self.state.step - len(values) + 1):
            if not math.isfinite(value):
                raise self._diverged(f"the training loss is {value}", step)
        self.state.losses.extend(values)

    def _diverged(self, what: str, step: int) -> UserError:
        if step == 0:
            return UserError(
                f"{what} before the first step: check the checkpoint to start from and the labels",
                code="training-diverged",
            )
        return UserError(
            f"{what} at step {step} of {self.total}: lower learning_rate, lengthen warmup_steps or set precision to "
            "float32, and run again",
            code="training-diverged",
        )

    def _look(self) -> None:
        """Measure the student on the held-out queries and remember it if it is the best so far."""
        import torch

        state = self.state
        logits = torch.zeros(len(self.heldout), 2, device=self.device)
        self.scorer.eval()
        with torch.no_grad():
            batches = batches_by_length(self.examples.lengths(self.heldout), LOOK_TOKENS[self.device.type])
            for number, places in enumerate(batches):
                if number % self.processes.count == self.processes.rank:
                    found, *_ = self._forward(self.examples.batch(self.heldout[places], self.pad_to))
                    logits[torch.from_numpy(places).to(self.device)] = found
        self.scorer.train()
        self.processes.add_up([logits])
        scores, teacher = logits.cpu(), torch.from_numpy(self.examples.teacher[self.heldout])
        sizes = self.examples.sizes(self.heldout)
        relevance = torch.from_numpy(self.examples.relevance[self.heldout])
        loss = float(self.objective.loss(scores, teacher, sizes, relevance))
        if not math.isfinite(loss):
            raise self._diverged(f"the held-out loss is {loss}", state.step)
        tau = kendall(delta(scores).numpy(), delta(teacher).numpy(), sizes)
        look = Look(state.step, loss, None if math.isnan(tau) else tau)
        state.looks.append(look)
        point(state.step, {"heldout/loss": loss, **({} if look.kendall is None else {"heldout/kendall": tau})})
        # The start itself is measured, for comparison, but a phase hands on what it trained.
        better = state.step > 0 and (state.best is None or loss < state.best.loss)
        if better:
            state.best, state.best_weights = look, self._weights()
        log.info(
            "step %s of %s: held-out loss %.4g, Kendall's tau with the teacher %.3f%s",
            state.step, self.total, loss, tau, ", the best so far" if better else "",
        )  # fmt: skip

    def _weights(self) -> dict[str, Tensor]:
        """Return copies on the CPU; tied weights once."""
        return {name: weight.detach().to("cpu", copy=True) for name, weight in self.weights.items()}

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])
        if self.masters:
            self._copy(self.weights)

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write everything that the next step depends on."""
        if not self.processes.first:
            return
        state = self.state
        content = {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "step": state.step,
            "losses": state.losses,
            "looks": [asdict(look) for look in state.looks],
            "best": asdict(state.best) if state.best else None,
            "best_weights": state.best_weights,
        }
        checkpoint.write(content)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Go on where an attempt before this one was. The machines of a training agree on the store's copy."""
        if self.processes.first_here:
            checkpoint.fetch(anew=self.processes.machines > 1)
        self.processes.wait()
        content = checkpoint.read()
        steps = self.processes.all(content["step"] if content else 0)
        if len(set(steps)) > 1:
            raise UserError(
                f"{checkpoint.file}: the {len(steps)} processes of this training find checkpoints of steps "
                f"{', '.join(map(str, sorted(set(steps))))}; set INRANKER_STORE, or INRANKER_SCRATCH to a folder on a volume "
                "that all machines of this training share",
                code="scratch-not-shared",
            )
        if not content:
            return
        self._set_weights(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
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
        """Return numbers of a training that has ended."""
        state, examples = self.state, self.examples
        return DistillStats(
            steps=self.total,
            pairs=len(self.rows),
            queries=len(np.unique(examples.query[self.rows])),
            heldout_queries=len(np.unique(examples.query[self.heldout])),
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            final_train_loss=float(np.mean(state.losses[-max(self.total // 10, 1) :])) if state.losses else None,
            best_step=state.best.step if state.best else self.total,
            start_heldout_loss=state.looks[0].loss if state.looks else None,
            heldout_loss=state.best.loss if state.best else None,
            heldout_kendall=state.best.kendall if state.best else None,
            resumed_step=self.resumed_step,
            pairs_per_second=self.pairs_per_second,
            seconds=seconds,
        )

    def record(self) -> dict[str, Any]:
        """Return training.json: what happened, without times, so that equal trainings write equal folders."""
        state = self.state
        size = -(-self.total // CURVE_POINTS)
        return {
            "config": as_dict(self.config),
            "reads": self.student.reads.settings(),
            "steps": self.total,
            "warmup_steps": self.warmup,
            "steps_per_epoch": self.sampler.steps_per_epoch,
            "best_step": state.best.step if state.best else self.total,
            "looks": [asdict(look) for look in state.looks],
            # Mean loss of the steps up to and including `step`, since the point before.
            "train_loss": [
                {"step": min(at + size, self.total), "loss": float(np.mean(state.losses[at : at + size]))}
                for at in range(0, len(state.losses), size)
            ],
            "sets": {
                f"{place} {name}": {
                    "pairs": int(np.count_nonzero(self._in_set(self.rows, place))),
                    "heldout_pairs": int(np.count_nonzero(self._in_set(self.heldout, place))),
                }
                for place, name in enumerate(self.examples.names, 1)
            },
            "precision": self.precision,
            # What serving needs too; whoever registers the model may have none of them installed.
            "versions": {name: version(name).partition("+")[0] for name in ("torch", "transformers", "numpy")},
        }

    def _in_set(self, rows: np.ndarray, place: int) -> np.ndarray:
        return self.examples.set_of[self.examples.query[rows]] == place - 1
