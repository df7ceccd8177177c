"""Where a stage keeps unfinished work, so that a killed run continues where it was.

The folder is named by the content that the work depends on (configuration and input digests), not by the run: another
run of the same work finds it. ``INRANKER_SCRATCH`` names the root; a stage removes its folder when its output is
complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any


def scratch_folder(stage: str, *identity: Any) -> Path:
    """Create (or find) the scratch folder of ``stage`` for the work that ``identity`` (JSON data) describes."""
    root = Path(os.environ.get("INRANKER_SCRATCH") or Path(tempfile.gettempdir()) / "inranker-scratch")
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    folder = root / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder
