"""Does phase 2 on synthetic queries help on real text? Real encoders, real collections, two cores, hours.

    PYTHONPATH=src:. nice -n 15 .venv/bin/python -m benchmarks.real_text weights --root FOLDER
    PYTHONPATH=src:. nice -n 15 .venv/bin/python -m benchmarks.real_text collections --root FOLDER --data ../shared/data
    PYTHONPATH=src:. nice -n 15 .venv/bin/python -m benchmarks.real_text students --root FOLDER [--seeds 1] [--variants ...]
    PYTHONPATH=src:. .venv/bin/python -m benchmarks.real_text tables --root FOLDER

Everything lies below FOLDER; each command goes on where a killed one was, and what is complete is kept.

- `weights` (`weights.py`): all-MiniLM-L6-v2, from which the students start, and SmolLM2-135M-Instruct, which writes queries.
- `collections` (`domains.py`): the source, SQuAD; and targets of other domains. No target has a training query or a training
  judgement, so nothing can be trained on what is tested.
- `queries` (`queries.py`): for each target, queries that SmolLM2 writes and sentences cropped from the documents, ahead of
  `students`, which asks for what is missing.
- `students` (`students.py`): by the product's own stages, each task in a process of its own. The teacher (`served.py`) is the
  bi-encoder as it is, behind a server: trained on a billion pairs, it is far better on these targets than a cross-encoder
  that is trained here would be. Students are cross-encoders of three of its layers, which have to learn to compare two texts.
- `tables` (`tables.py`): nDCG@10 by judgements, and Kendall's tau with the teacher, of the first stage (BM25), phase 1, phase 1
  continued on as much more source (a gain of phase 2 may be one of more steps), phase 2 on written queries and on crops; and one
  change at a time: the loss, the number of queries, replay of the source, one student for all targets or one for each, merged.
"""
