"""The sampling engine: prompts in, completions out, for every model with `forward(tokens, cache)`."""

from eco.inference.completion import Completion
from eco.inference.engine import Engine
from eco.inference.prefix_cache import PrefixCache
from eco.inference.sampling import Sampling
from eco.inference.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "PrefixCache", "Sampling", "Tokenizer"]
