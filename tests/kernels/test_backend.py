"""Which kernels are chosen for a device, with and without Triton, with and without a wish."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from eco.kernels import native, triton
from eco.kernels.backend import backend


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton can be imported, the C++ can be loaded, and there is no CUDA device."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("ECO_KERNELS", raising=False)
    monkeypatch.setattr(triton, "_installed", lambda: True)
    monkeypatch.setattr(native, "library", lambda: None if native.wish() == "torch" else object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    triton._warn.cache_clear()
    yield
    triton._warn.cache_clear()


@pytest.mark.parametrize(
    ("wish", "cpu", "cuda"),
    [("", "cpp", "triton"), ("torch", "torch", "torch"), ("cpp", "cpp", "torch"), ("triton", "cpp", "triton")],
)
def test_the_wish_and_the_device_choose(wish: str, cpu: str, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_KERNELS", wish)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (backend("cpu"), backend("cuda")) == (cpu, cuda)


def test_the_interpreter_takes_cpu_tensors_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.ones(2)
    assert backend("cpu") == "cpp" and not triton.usable(x)
    monkeypatch.setenv("ECO_KERNELS", "triton")
    assert backend("cpu") == "triton" and triton.usable(x, None)
    assert not triton.usable(x, torch.ones(2, device="meta"))


def test_without_triton_other_kernels_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_installed", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (backend("cpu"), backend("cuda")) == ("cpp", "torch")
    monkeypatch.setenv("ECO_KERNELS", "triton")
    with pytest.warns(UserWarning, match="cannot be imported") as said:
        assert (backend("cpu"), backend("cuda")) == ("cpp", "torch")
    assert len(said) == 1


def test_an_unknown_wish_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_KERNELS", "fast")
    with pytest.raises(ValueError, match="'torch', 'cpp' or 'triton'"):
        backend("cuda")


def test_compiled_code_takes_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("ECO_KERNELS", "triton")
    seen: list[bool] = []

    def traced(x: torch.Tensor) -> torch.Tensor:
        seen.append(triton.usable(x))
        return x + 1

    torch.compile(traced, backend="eager", fullgraph=False)(torch.ones(2))
    assert seen == [False]
