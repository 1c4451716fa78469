"""A packed run proves itself where nothing of it is left but the archive, and shows every fault that it is given."""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_run import SMALL_PUZZLES, TINY, read_rows

import eco as package
from eco import recipe as recipes
from eco.data.library.folder import contents
from eco.data.library.metadata import Metadata
from eco.data.library.recipes.contract import Collection, Entry
from eco.data.prepare import Report, TextConfig
from eco.jobs import pack as packing
from eco.jobs import validate as validating
from eco.jobs.examine import examine, main
from eco.jobs.pack import bundle, pack
from eco.jobs.provenance import PYTHON, provenance, without_folders
from eco.jobs.validate import validate
from eco.ship.archive import open_archive
from eco.ship.bundle import Facts
from eco.ship.card import card
from eco.ship.instructions import write_instructions
from eco.ship.manifest import MANIFEST, write_manifest

GPT2 = {"model": {"family": "gpt2", "width": 32, "layers": 2, "heads": 2, "context": 32}}
AVERAGED = {"train": {"ema_decay": 0.5}}
SIGMA = {
    "model": {
        "family": "sigma", "width": 32, "layers": 3, "heads": 2, "context": 32, "mamba_ratio": 2, "head_size": 16,
        "state": 8, "mimo_rank": 2, "chunk": 8, "latent": 16, "rope_size": 4, "feed_forward": 48, "routed_experts": 4,
    }
}  # fmt: skip

SIMONE = {
    "model": {
        "family": "simone", "width": 32, "layers": 2, "heads": 2, "context": 32, "policy_rank": 2, "forgetting": True,
        "memory_slots": 2, "segment": 8, "routed_experts": 4,
    }
}  # fmt: skip


def trained(folder, corpus, changes):
    recipe = yaml.safe_load(TINY)
    for section, values in changes.items():
        recipe[section] = values if section == "model" else {**recipe[section], **values}
    recipe["data"] = {"paths": [str(corpus)], "held_out": 0.2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    package.train(str(folder / "recipe.yaml"), {"output_dir": str(folder / "small")})
    return folder / "small"


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    """A gpt2 whose weights are averaged, so that the packed ones are not those of the last step."""
    return trained(tmp_path_factory.mktemp("trained"), corpus, GPT2 | AVERAGED)


@pytest.fixture(scope="module")
def archive(run, tmp_path_factory):
    return pack(run, tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def opened(archive, tmp_path):
    return open_archive(archive, tmp_path)


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes longer than the rest of packing a small model."""
    monkeypatch.setattr(packing, "draw_curves", lambda rows, folder: [])


def failed(folder, place):
    return [check.name for check in examine(folder, place)[0] if not check.passed]


def test_an_archive_validates_where_nothing_else_is(archive, tmp_path):
    """Another machine: a copy of the package, no compiler, the archive, an empty home; no run and no data."""
    site, home, downloads = tmp_path / "site", tmp_path / "home", tmp_path / "downloads"
    shutil.copytree(Path(package.__file__).parent, site / "eco", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "eco" / "__init__.py").open("a").write('\n__version__ = "the copy"\n')
    for folder in (home, downloads):
        folder.mkdir()
    shutil.copy(archive, downloads)
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(home), "ECO_KERNELS": "torch"}
    command = [sys.executable, "-m", "eco", "validate", archive.name, "--json"]
    done = subprocess.run(command, cwd=downloads, env=environment, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["passed"], report
    assert report["validated_with"]["eco"] == "the copy", "the process that checks runs the package that was called"
    names = ["manifest", "parameters", "tokenizer", "logits", "cache", "generation", "held_out_loss"]
    assert [check["name"] for check in report["checks"]] == names
    figures = {check["name"]: check["figures"] for check in report["checks"]}
    assert figures["logits"]["difference"] < 1e-5, "plain torch, where it was packed with C++"
    assert figures["generation"]["prompts"] == 6
    assert report == json.loads((downloads / "small_validation.json").read_text()) | {"report": report["report"]}
    assert sorted(path.name for path in downloads.iterdir()) == ["small_model.tar.gz", "small_validation.json"]


def test_a_run_is_validated_by_packing_it(eco, run):
    done = eco("validate", run)
    assert done.returncode == 0 and done.stdout.count(" ok ") == 7, done.stdout
    report = json.loads((run / "validation.json").read_text())
    assert report["passed"] and report["name"] == "small" and len(report["sha256"]) == 64
    assert next(check for check in report["checks"] if check["name"] == "logits")["figures"]["bit_equal"]


def test_a_damaged_archive_fails_by_name(eco, archive, tmp_path, monkeypatch):
    damaged = tmp_path / "small_model.tar.gz"
    content = archive.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(validating, "_examined", examined_here)  # the process of its own is proved above
    done = eco("validate", damaged, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and not report["passed"]
    assert [check["name"] for check in report["checks"]] == ["manifest"]
    assert "cut off" in report["checks"][0]["detail"]
    shown = eco("validate", damaged)
    assert shown.returncode == 1 and "FAILED" in shown.stdout
    assert "does not exist" in eco("validate", tmp_path / "absent").stderr


def examined_here(packed, work):
    main(str(packed), str(work), str(work / "findings.json"))
    return json.loads((work / "findings.json").read_text())


def test_the_process_is_isolated_and_its_home_is_empty(archive, tmp_path, monkeypatch):
    told = "[sys.flags.isolated, os.environ.get('ECO_CACHE'), [os.environ['HOME'], os.getcwd()] == 2 * [sys.argv[3]]]"
    found = f"{{'name': {told}, 'checks': []}}"
    monkeypatch.setattr(validating, "_START", f"import json, os, sys; json.dump({found}, open(sys.argv[4], 'w'))")
    shutil.copy(archive, tmp_path)
    assert validate(tmp_path / archive.name)["name"] == [1, None, True]


def test_a_process_that_dies_is_a_failed_check(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(validating, "_START", "import os; os.abort()")
    shutil.copy(archive, tmp_path)
    report = validate(tmp_path / archive.name)
    assert not report["passed"] and report["checks"][0]["name"] == "process"
    assert "status -6" in report["checks"][0]["detail"]


def test_the_bundle_is_whole_and_names_no_folder_of_this_machine(opened, run, corpus):
    held = {path.relative_to(opened).as_posix() for path in opened.rglob("*") if path.is_file()}
    wanted = {"README.md", "facts.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "history.json"}
    wanted |= {"probe.safetensors", "held_out.safetensors", "plots/loss.png", "huggingface/config.json", MANIFEST}
    assert wanted <= held
    for name in held:
        assert str(run.parent).encode() not in (opened / name).read_bytes(), name
        assert str(corpus.parent).encode() not in (opened / name).read_bytes(), name
    assert json.loads((opened / "history.json").read_text()) == read_rows(run)
    packed, own = recipes.load(str(opened / "recipe.yaml")), recipes.load(str(run / "recipe.yaml"))
    assert packed.model == own.model and packed.train == own.train and packed.optimizer == own.optimizer


def test_the_facts_are_those_of_the_evaluated_weights(opened, run):
    facts, last = Facts.read(opened), read_rows(run)[-1]
    assert facts.held_out["val_loss"] == last["val_loss"] and facts.step == 12 and facts.averaged
    raw = load_file(run / "checkpoints" / "step_00000012" / "model.safetensors")
    assert not torch.equal(load_file(opened / "model.safetensors")["embedding.weight"], raw["embedding.weight"])
    card = (opened / "README.md").read_text()
    assert f"{last['val_loss']:.4f}" in card and f"{sum(facts.parameters.values()):,}" in card
    assert "mean of its weights" in card and "must not be used" in card and "Licence" in card


def test_a_bundle_loads_and_generates_as_its_run_does(opened, run):
    one, other = package.load(opened), package.load(run)
    text = one.generate("def alpha", max_new_tokens=12)
    assert text and text == other.generate("def alpha", max_new_tokens=12)
    assert one.step == other.step == 12


def test_weights_that_were_changed_with_their_digest_are_found(opened, tmp_path):
    weights = load_file(opened / "model.safetensors")
    dice = torch.Generator().manual_seed(0)
    changed = {name: weight + 0.1 * torch.randn(weight.shape, generator=dice) for name, weight in weights.items()}
    save_file(changed, opened / "model.safetensors")
    assert failed(opened, tmp_path) == ["manifest"]
    (opened / MANIFEST).unlink()
    write_manifest(opened)
    assert failed(opened, tmp_path) == ["logits", "held_out_loss"]


def test_weights_of_another_model_do_not_load(opened, tmp_path):
    weights = load_file(opened / "model.safetensors")
    save_file({name: weight[:1] for name, weight in weights.items()}, opened / "model.safetensors")
    (opened / MANIFEST).unlink()
    write_manifest(opened)
    assert failed(opened, tmp_path) == ["loads"]


def test_two_packs_are_equal(archive, run, tmp_path):
    assert pack(run, tmp_path).read_bytes() == archive.read_bytes()


def test_a_pack_that_fails_leaves_what_was_there(archive, run, tmp_path, monkeypatch, without_pictures):
    kept = tmp_path / archive.name
    kept.write_bytes(b"the one before")
    (tmp_path / ".small.packing").mkdir()
    (tmp_path / ".small.packing" / "left").write_text("by a process that was killed")

    def interrupted(bundle, path):
        assert not (tmp_path / ".small.packing" / "left").exists()
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "write_archive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name] and kept.read_bytes() == b"the one before"


def test_the_instructions_check_the_archives(archive):
    folder = archive.parent
    page = (folder / "DOWNLOAD_INSTRUCTIONS.md").read_text()
    assert f"| `small_model.tar.gz` | {archive.stat().st_size:,} |" in page
    check = page.split("```sh\n")[1].split("```")[0]
    assert subprocess.run(["sh", "-c", check], cwd=folder, capture_output=True).returncode == 0


def test_a_name_with_blanks_is_one_word_of_the_commands(archive, tmp_path):
    shutil.copy(archive, tmp_path / "a model_model.tar.gz")
    write_instructions(tmp_path)
    page = (tmp_path / "DOWNLOAD_INSTRUCTIONS.md").read_text()
    commands = page.split("```sh\n")[3].split("```")[0]
    assert commands == "tar xzf 'a model_model.tar.gz'\neco generate 'a model' --prompt TEXT\n"
    check = page.split("```sh\n")[1].split("```")[0]
    assert subprocess.run(["sh", "-c", check], cwd=tmp_path, capture_output=True).returncode == 0


def test_a_checkpoint_that_was_not_evaluated_is_measured(run, tmp_path, without_pictures):
    """Step 8 was saved, and has no held-out figure."""
    folder = bundle(run, tmp_path / "small", 8)
    facts = Facts.read(folder)
    assert facts.step == 8 and facts.held_out_source.startswith("Measured when the model was packed")
    assert facts.held_out["val_loss"] > read_rows(run)[-1]["val_loss"]
    assert failed(folder, tmp_path) == []


def test_figures_of_other_windows_are_not_taken(run, tmp_path, without_pictures):
    """The run went on with another --eval-windows after its last evaluation."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["train"]["eval_windows"] = 9
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    folder = bundle(copy, tmp_path / "small")
    assert Facts.read(folder).held_out_source.startswith("Measured when the model was packed")
    assert len(load_file(folder / "held_out.safetensors")["tokens"]) == 9
    assert failed(folder, tmp_path) == []


@pytest.mark.parametrize("changes", [{}, SIGMA, SIMONE], ids=["decoder", "sigma", "simone"])
def test_every_family_is_packed_and_validated(tmp_path, corpus, changes, without_pictures):
    folder = bundle(trained(tmp_path, corpus, changes), tmp_path / "packed")
    assert failed(folder, tmp_path) == []
    assert not (folder / "huggingface").exists()


def test_the_card_names_the_sources_of_a_library(tmp_path):
    config = TextConfig(paths=(f"library:{tmp_path}/verses", "stdlib:"))
    metadata = Metadata(title="Genesis", category="law", source="An old book", license="public domain")
    (tmp_path / "verses").mkdir()
    for name, content in contents(Collection("verses", (Entry("In the beginning", metadata),))).items():
        (tmp_path / "verses" / name).write_bytes(content)
    found = provenance(config, Report(**{one.name: 1 for one in fields(Report)}))
    assert found["names"] == "library:verses, stdlib:" and found["sources"] == "An old book"
    assert found["licence"] == f"{PYTHON}, public domain"
    empty = {one.name: "" for one in fields(Facts)} | dict.fromkeys(("step", "vocabulary", "context"), 1)
    facts = empty | {"parameters": {}, "held_out": {}, "prompts": ("x",), "data": found, "made_with": defaultdict(str)}
    told = card(Facts(**facts), False)
    assert "Trained on library:verses, stdlib: (An old book)." in told
    assert f"Of the data: {PYTHON}, public domain." in told
    assert without_folders(config).paths == ("library:verses", "stdlib:")


def test_transformers_reads_a_packed_gpt2(opened, run):
    transformers = pytest.importorskip("transformers")
    ours = package.load(opened, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(opened / "huggingface").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(opened / "huggingface")
    text = "def alpha(x):\r\n\treturn x <|endoftext|> \U0001f600"
    ids = tokenizer(text)["input_ids"]
    assert ids == ours.tokenizer.encode(text) and tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == ours.tokenizer.eos
    tokens = torch.tensor([ids[:32]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours.model(tokens), atol=1e-5, rtol=0)


def test_what_cannot_be_packed_is_refused(opened, run, tmp_path, corpus, monkeypatch):
    with pytest.raises(ValueError, match="is a bundle already"):
        pack(opened, tmp_path)
    with pytest.raises(ValueError, match="not a run directory"):
        pack(tmp_path, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"not a run directory: it is a file"):
        pack(tmp_path / "file", tmp_path)
    with pytest.raises(ValueError, match=r"cannot write to .*file.*--to"):
        pack(run, tmp_path / "file")
    (tmp_path / "puzzles.yaml").write_text(SMALL_PUZZLES)
    package.train(str(tmp_path / "puzzles.yaml"), {"output_dir": str(tmp_path / "solver"), "train.steps": 1})
    with pytest.raises(ValueError, match="trained on puzzles; what can be packed are language models"):
        validate(tmp_path / "solver")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    shutil.copytree(corpus, tmp_path / "corpus")
    next((tmp_path / "corpus").iterdir()).unlink()
    recipe["data"]["paths"] = [str(tmp_path / "corpus")]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="are not those it was trained on"):
        pack(copy, tmp_path)
