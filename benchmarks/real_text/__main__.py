"""The commands: see the package's docstring."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import benchmarks.real_text
from benchmarks.real_text import domains, queries, students, tables, weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=benchmarks.real_text.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["weights", "collections", "queries", "students", "tables"])
    parser.add_argument("--root", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real collections")
    parser.add_argument("--targets", default="", help="names separated by commas; default: all that are there")
    parser.add_argument("--kinds", default=",".join(queries.KINDS), help="of queries, separated by commas")
    parser.add_argument("--seeds", default=",".join(map(str, students.SEEDS)), help="of training, separated by commas")
    parser.add_argument("--variants", default="", help="names separated by commas; default: all")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    root = options.root.resolve()
    if options.what == "weights":
        weights.make(root)
    elif options.what == "collections":
        domains.make(options.data, root / "collections")
    elif options.what == "students":
        chosen = [each.strip() for each in options.variants.split(",") if each.strip()]
        students.make(root, [int(seed) for seed in options.seeds.split(",")], chosen)
    elif options.what == "tables":
        print(tables.show(root))
    else:
        queries.make(root, [name for name in options.targets.split(",") if name], options.kinds.split(","))


if __name__ == "__main__":
    main()
