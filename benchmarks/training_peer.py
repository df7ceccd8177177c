"""The other side of `benchmarks/training.py`, run with the interpreter of an environment of its own.

Reads commands from standard input, answers each with one line of JSON on standard output:
`trainer FOLDER` InRanker's own trainer (PyPI `inranker`), as it is, stopped after every step;
`encoder FOLDER` sentence-transformers' CrossEncoderTrainer with MSELoss, as it is, stopped after every step;
`arrow FOLDER`   tokenised prompts in a `datasets` table, batches padded by transformers' collator.
Then a number: do that many steps; the answer has CPU seconds and examples. Ends at the end of the input.
"""

from __future__ import annotations

import json
import sys
import time


def answer(**values: object) -> None:
    sys.__stdout__.write(json.dumps(values) + "\n")
    sys.__stdout__.flush()


def asked() -> int:
    """Number of steps that the other side wants next; ends the process when it wants no more."""
    line = sys.stdin.readline()
    if not line.strip():
        sys.exit(0)
    return int(line)


def stepwise(peer: str) -> object:
    """A callback of transformers' Trainer that does as many steps as it is told."""
    import torch
    from transformers import TrainerCallback, __version__

    torch.set_num_threads(1)

    class Stepwise(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            answer(ready=f"{peer}, transformers {__version__}, torch {torch.__version__}")
            self.left, self.steps = asked(), 0
            self.start = time.process_time()

        def on_step_end(self, arguments: object, *_: object, **__: object) -> None:
            self.steps += 1
            if self.steps == self.left:
                seconds = time.process_time() - self.start
                answer(seconds=seconds, examples=32 * self.steps)
                self.left, self.steps = asked(), 0
                self.start = time.process_time()

    return Stepwise()


def trainer(folder: str) -> None:
    from inranker.training.trainer import InRankerTrainer

    callback = stepwise("inranker 1.1.0")
    ours = InRankerTrainer(
        folder,
        output_dir=f"{folder}/out",
        dataloader_num_workers=0,  # one core: its four workers would be counted too
        num_train_epochs=1000,
        save_steps=10**9,
        logging_steps=10**9,
        disable_tqdm=True,
        report_to=[],
    )
    import inranker.training.trainer as module

    class Stopped(module.T5Trainer):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, callbacks=[callback], **options)

    module.T5Trainer = Stopped
    ours.train(ours.load_custom_dataset(f"{folder}/pairs.jsonl"))


def encoder(folder: str) -> None:
    import datasets
    import sentence_transformers
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import MSELoss

    with open(f"{folder}/pairs.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    columns = {"query": [row["query"] for row in rows], "passage": [row["contents"] for row in rows]}
    labels = [row["true_logit"] - row["false_logit"] for row in rows]
    model = CrossEncoder(folder, num_labels=1, device="cpu", max_length=512)
    arguments = CrossEncoderTrainingArguments(
        output_dir=f"{folder}/out",
        per_device_train_batch_size=32,
        num_train_epochs=1000,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
    )
    CrossEncoderTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({**columns, "label": labels}),
        loss=MSELoss(model),
        callbacks=[stepwise(f"sentence-transformers {sentence_transformers.__version__}")],
    ).train()


def arrow(folder: str) -> None:
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    table = datasets.load_from_disk(f"{folder}/arrow")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    loader = torch.utils.data.DataLoader(
        table, batch_size=32, shuffle=True, collate_fn=transformers.DataCollatorWithPadding(tokenizer)
    )
    answer(ready=f"datasets {datasets.__version__}, transformers {transformers.__version__}")
    batches = iter(loader)
    while True:
        steps, examples, start = asked(), 0, time.process_time()
        for _ in range(steps):
            batch = next(batches, None)
            if batch is None:
                batches = iter(loader)
                batch = next(batches)
            examples += len(batch["input_ids"])
        answer(seconds=time.process_time() - start, examples=examples)


def write(folder: str) -> None:
    """`prompts.jsonl` as a `datasets` table."""
    import datasets

    with open(f"{folder}/prompts.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    datasets.Dataset.from_list(rows).save_to_disk(f"{folder}/arrow")
    answer(ready="written")


if __name__ == "__main__":
    command, path = sys.stdin.readline().split()
    sys.stdout = sys.stderr  # what the libraries print is no answer
    {"trainer": trainer, "encoder": encoder, "arrow": arrow, "write": write}[command](path)
