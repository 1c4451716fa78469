"""What the commands make of their arguments, without a run."""

from eco.cli import main


def test_asking_for_help_is_no_error(capsys):
    assert main(["resume", "--help"]) == 0
    assert main(["resume"]) == 2
    assert capsys.readouterr().out.count("usage: eco resume") == 2
