import json
import os
import socket

import pytest

from eco.observe import status
from eco.observe.status import StatusFile, read_status


def test_it_tells_what_the_run_is_doing_and_who_writes(tmp_path):
    path = tmp_path / "status.json"
    StatusFile(path).update(step=7, loss_ema=float("nan"), tokens_per_s=12.5, bottleneck_stage="train")
    content = read_status(path)
    assert content["state"] == "running"
    assert (content["step"], content["loss_ema"], content["tokens_per_s"]) == (7, None, 12.5)
    assert (content["pid"], content["host"]) == (os.getpid(), socket.gethostname())


def test_it_is_written_every_few_seconds_but_at_once_for_milestones(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    file = StatusFile(path)
    file.update(step=1)
    file.update(step=2)
    assert read_status(path)["step"] == 1
    file.update(step=3, last_checkpoint="step_00000003")
    assert read_status(path)["step"] == 3
    file.update(step=4)
    file.update(state="finished")
    assert (read_status(path)["state"], read_status(path)["step"]) == ("finished", 4)
    monkeypatch.setattr(status, "_EVERY_S", 0.0)
    file.update(step=5)
    assert read_status(path)["step"] == 5


def test_a_run_whose_process_is_gone_has_crashed(tmp_path):
    path = tmp_path / "status.json"
    StatusFile(path).update(step=1)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"pid": 2**22 + 1}))
    assert read_status(path)["state"] == "crashed"
    path.write_text(json.dumps(content | {"pid": 2**22 + 1, "host": "elsewhere"}))
    assert read_status(path)["state"] == "running"


def test_no_status_says_so(tmp_path):
    with pytest.raises(ValueError, match="no status at"):
        read_status(tmp_path / "status.json")
