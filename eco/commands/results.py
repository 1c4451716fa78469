"""How the end of a training job is shown."""

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from eco.commands.arguments import print_json
from eco.jobs.train import Result


def report(result: Result, as_json: bool) -> None:
    """Prints the result, for scripts or for people; of several processes only the first does."""
    if result.is_main:
        print_json(result.summary()) if as_json else show_result(result)


def show_result(result: Result) -> None:
    """Why it ended, what training has brought, samples, and where everything lies."""
    console = Console(soft_wrap=True, highlight=False)
    for text in result.samples:
        console.print(Panel(Text(text), title="sample", title_align="left"))
    parameters = sum(result.parameters.values())
    console.print(f"\nstep {result.step} ({result.reason}), {parameters / 1e6:.1f} M parameters")
    if result.headline:
        console.print(result.headline, markup=False)
    console.print(f"run directory: {result.run}", markup=False)
    if result.plots:
        console.print(f"plots: {result.plots[0].parent}", markup=False)
        console.print(f"go on: {result.next_command}", markup=False)
