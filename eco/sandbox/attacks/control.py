"""No protection at all: what a checker does that runs programs and tests in a plain process and looks at its exit code.

Each attack must succeed here, or its failure elsewhere would say nothing.
"""

import json
import subprocess
import sys
import tempfile
from typing import Any

from eco.sandbox.attacks.contract import Attack

CALLS = """
import json, sys
names = {}
exec(sys.argv[1], names)
value = names["attack"](json.loads(sys.argv[2])) if sys.argv[2] else None
print("\\nreached:", str(value or "")[:1000])
"""

TESTS = """
import sys
names = {}
exec(sys.argv[1], names)
exec(sys.argv[2], names)
"""


def unprotected(attack: Attack, aim: dict[str, Any], token: str, seconds: float) -> tuple[str, str]:
    """What the attack reached by its own words (or the false pass), and how the process ended."""
    if attack.before:
        _run(CALLS, attack.before, json.dumps(aim), seconds)
    if attack.tests:
        status, _ = _run(TESTS, attack.program, attack.tests.replace("{token}", token), seconds)
        return "passed" if status == "exit code 0" else "", status
    status, output = _run(CALLS, attack.program, json.dumps(aim), seconds)
    return output.rpartition("reached:")[2].strip(), status


def _run(runner: str, program: str, argument: str, seconds: float) -> tuple[str, str]:
    """How it ended, and the end of what it printed."""
    command = [sys.executable, "-c", runner, program, argument]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            close_fds=False,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
            return f"exit code {process.returncode}", output[-4096:].decode(errors="replace")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "did not end", ""
