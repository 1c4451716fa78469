"""A run's model and tokenizer as those of transformers."""

import pytest
import torch

import eco as package

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()


def test_a_run_generates_alike_on_both_sides_and_is_handed_on(tiny, tmp_path):
    from eco.jobs.huggingface import from_run

    run = tmp_path / "run"
    package.train(tiny, {"output_dir": str(run)})
    model, tokenizer = from_run(run)
    assert not model.training
    prompt = tokenizer("def alpha", return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    text = package.load(run).generate("def alpha", temperature=0, max_new_tokens=12)
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(
            back(**again("x = 1", return_tensors="pt")).logits, model(**tokenizer("x = 1", return_tensors="pt")).logits
        )


def test_a_run_of_puzzles_is_refused(tmp_path):
    from small_run import SMALL_PUZZLES

    from eco.jobs.huggingface import from_run

    (tmp_path / "puzzles.yaml").write_text(SMALL_PUZZLES)
    package.train(str(tmp_path / "puzzles.yaml"), {"output_dir": str(tmp_path / "run"), "train.steps": 2})
    with pytest.raises(ValueError, match="trained on puzzles"):
        from_run(tmp_path / "run")
