"""Run one component as KFP's executor does; this is the command of every compiled task.

python3 -m components kfp.dsl.executor_main NAME EXECUTOR_INPUT
"""

import sys
from pathlib import Path

from kfp.dsl.executor_main import executor_main

if __name__ == "__main__":
    command, _, name, executor_input = sys.argv
    adapter = Path(__file__).parent / name / "component.py"
    options = {"component_module_path": str(adapter), "function_to_execute": name, "executor_input": executor_input}
    sys.argv = [command, *(f"--{option}={value}" for option, value in options.items())]
    executor_main()
