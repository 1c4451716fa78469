"""Token healing: a prompt that ends in white space is continued as if its last token were still open.

A space is one token with the word behind it, a line break one with the indentation behind it. A prompt such as "def "
ends in a lone space instead, which a model hardly ever saw before a word. So the last token is taken back, and the
first new token is drawn among those that begin with its bytes.
"""

import torch
from torch import Tensor

from eco.inference.tokenizer import Tokenizer


def take_back(tokens: list[int], tokenizer: Tokenizer) -> tuple[list[int], bytes]:
    """(tokens, bytes taken back): the last token goes if it is white space and not the only one."""
    last = tokenizer.decode_bytes(tokens[-1:])
    return (tokens[:-1], last) if len(tokens) > 1 and last.isspace() else (tokens, b"")


def only_continuing(logits: Tensor, taken_back: list[bytes], tokenizer: Tokenizer) -> Tensor:
    """Logits (B, V), in each row minus infinity for the tokens that do not begin with what was taken back there."""
    if not any(taken_back):
        return logits
    pieces = [tokenizer.decode_bytes([token]) for token in range(logits.shape[-1])]
    allowed = {prefix: torch.tensor([piece.startswith(prefix) for piece in pieces]) for prefix in set(taken_back)}
    mask = torch.stack([allowed[prefix] for prefix in taken_back]).to(logits.device)
    return logits.masked_fill(~mask, float("-inf"))
