"""A stand-in for the `eco` that a pipeline's stages call: it makes what they make, at once, and writes down its calls.

`orders.json` in its folder says what a stage does instead: a number is its exit status; "hang" waits for a file `go` or
a signal, upon which a training ends as a real one does, and says that it was stopped; "make nothing" exits with 0.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import eco as package

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

here, words = Path(__file__).parents[1], sys.argv[1:]
command = words[0]
name = command
if command in ("train", "pack", "validate"):
    name += " " + next(m for m in ("mvlm-gpt2", "simone") for w in words[1:] if Path(w).name.startswith(m))
with open(here / "calls.txt", "a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
print(f"{name} read {sys.stdin.read()!r}", flush=True)

def asked(number, frame):
    global stopped
    stopped = True
stopped = False
if command == "train":
    signal.signal(signal.SIGINT, asked)
    signal.signal(signal.SIGTERM, asked)
order = json.loads((here / "orders.json").read_text()).get(name)
if order == "hang":
    (here / "hanging").write_text(str(os.getpid()))
    while not stopped and not (here / "go").exists():
        time.sleep(0.02)
elif isinstance(order, int):
    print("this went wrong", file=sys.stderr)
    sys.exit(order)
elif order == "make nothing":
    sys.exit(0)

def after(flag):
    return Path(words[words.index(flag) + 1])

if command == "train":
    run = after("--output-dir")
    (run / "checkpoints" / "step_00000004").mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").write_text("extends: demo\\n")
    with open(run / "metrics.jsonl", "a") as rows:
        rows.write("{}\\n")
    (run / "status.json").write_text(json.dumps({"state": "stopped" if stopped else "finished"}))
    print("x" * 200_000, flush=True)  # more than a pipe holds
elif command == "pack":
    after("--to").mkdir(parents=True, exist_ok=True)
    (after("--to") / f"{Path(words[1]).name}_model.tar.gz").write_text("packed")
elif command == "validate":
    archive = Path(words[1])
    archive.with_name(archive.name.replace("_model.tar.gz", "_validation.json")).write_text("{}")
elif command == "compare":
    after("--output-dir").mkdir(exist_ok=True)
    (after("--output-dir") / "comparison.json").write_text("{}")
elif command == "data":
    Path(words[2]).mkdir(parents=True, exist_ok=True)
    (Path(words[2]) / "corpus.json").write_text("{}")
"""

FRONT = "import os, sys; from eco.cli import main; os.environ['PYTHONPATH'] = sys.argv.pop(1); sys.exit(main())"


class StandIn:
    """The package in `folder`, for PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "eco").mkdir(parents=True)
        (folder / "eco" / "__init__.py").touch()
        (folder / "eco" / "__main__.py").write_text(PROGRAM)
        self.order()

    def order(self, **orders: object) -> None:
        """stage, with _ for blanks -> what it does instead; those before no longer hold."""
        told = {name.replace("__", "-").replace("_", " "): order for name, order in orders.items()}
        (self.folder / "orders.json").write_text(json.dumps(told))

    def calls(self) -> list[list[str]]:
        """The calls since the last time: name of the stage, then its words."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def names(self) -> list[str]:
        return [call[0] for call in self.calls()]

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """`eco` in a process and group of its own, whose stages are stand-ins; what it says goes to `said`."""
        command = [sys.executable, "-c", FRONT, str(self.folder), *map(str, words)]
        outside = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
        with open(self.folder / "said.txt", "wb") as said:
            return subprocess.Popen(command, stdout=said, stderr=said, env=outside, start_new_session=True)

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()
