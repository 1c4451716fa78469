"""Checks and defaults of the sizes that several architectures share."""


def check_vocabulary(vocab_size: int) -> None:
    """Raises ValueError where the size still stands at 0, which a recipe replaces by the tokenizer's."""
    if vocab_size == 0:
        raise ValueError("vocab_size is 0, so the model has no tokens; set it to the size of the tokenizer")


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError unless `heads` divides `width`."""
    if width % heads:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - heads))
        raise ValueError(
            f"width {width} cannot be cut into {heads} heads of equal size; "
            f"take heads: {nearest}, or a width that is a multiple of {heads}, such as {_round_up(width, heads)}"
        )


def check_kv_heads(heads: int, kv_heads: int) -> None:
    """Raises ValueError unless each key/value head serves the same number of query heads."""
    if heads % kv_heads:
        raise ValueError(f"{heads} heads cannot share {kv_heads} kv_heads evenly; take kv_heads that divide {heads}")


def check_rotary(width: int, heads: int) -> None:
    """Raises ValueError where a head has an odd size: rotary positions turn pairs of numbers."""
    if width // heads % 2:
        raise ValueError(
            f"rotary positions need an even head size, but width {width} / heads {heads} = {width // heads}; "
            f"take width: {2 * heads * (width // heads // 2 + 1)}"
        )


def swiglu_size(width: int) -> int:
    """8/3 of the width, as many weights as a GELU layer of 4 x width has, rounded up to a multiple of 64."""
    return _round_up(-(-8 * width // 3), 64)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
