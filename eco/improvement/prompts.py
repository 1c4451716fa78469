"""How an earlier answer is shown to the model: in lines before the task's own prompt, which it then continues as ever.

Where the prompt is a program the lines are comments, so that the whole stays one:

    # An earlier answer:
    #     return value + 1
    # Verdict: 3 of 10 hidden calls are right; another result than expected
    def solve(value):
        ...

The answer and the verdict may be words of the model's own choosing (an exception has a message): they are cut, and what
is not printable is shown as an escape, so that no character of them ends a comment.
"""

from eco.tasks.contract import Task

_ANSWER = 1000
"""Characters of an answer that are shown."""

_VERDICT = 200
"""Characters of what is said about it."""


def with_answer(task: Task, answer: str, verdict: str | None = None) -> str:
    """The task's prompt below an answer and, if there is one, what is wrong with it."""
    lines = ["An earlier answer:", *_cut(answer.strip("\r\n"), _ANSWER).splitlines()]
    if verdict is not None:
        lines.append(f"Verdict: {_cut(verdict, _VERDICT)}")
    return "".join(f"{task.comment}{_printable(line)}".rstrip() + "\n" for line in lines) + task.prompt


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "..."


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\t" else ascii(letter)[1:-1] for letter in line)
