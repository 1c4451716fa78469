"""A language model of Eco as a `PreTrainedModel`, for what is written for `transformers`: `generate`, TRL, PEFT.

Importing this file makes the type `eco` known to `AutoConfig` and `AutoModelForCausalLM`. The weights stay Eco's own
modules under their own names: what trains the wrapped model trains the model that was wrapped.
"""

from itertools import chain
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco import plugins
from eco.data.tokenizer import Tokenizer
from eco.models.contract import IGNORE, LanguageModel, LanguageModelConfig, build_model
from eco.models.instant import apply_instant
from eco.models.layers.headed import HeadedModel
from eco.models.layers.rotary import Rotary

try:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
except ImportError as error:
    raise ValueError("Eco models as transformers models need transformers; pip install 'eco-lm[hf]'") from error

from eco.models.huggingface.generation_cache import EcoCache


class EcoConfig(PretrainedConfig):  # type: ignore[misc,unused-ignore]
    """eco: the settings of an Eco architecture, as `ModelConfig.model_dump(mode="json")` gives them."""

    model_type = "eco"
    eco: dict[str, Any] | None = None
    tie_word_embeddings: bool = True
    auto_map: ClassVar[dict[str, str]] = {}  # TRL reads it of every model that is not transformers' own

    @classmethod
    def of(cls, model: HeadedModel, tokenizer: Tokenizer | None = None) -> "EcoConfig":
        """What describes a model; `generate` ends at the tokenizer's end of text."""
        marks = {} if tokenizer is None else {"eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
        settings = model.config.model_dump(mode="json")
        return cls(eco=settings, tie_word_embeddings=model.head is None, **marks)

    @property
    def vocab_size(self) -> int:
        return self.architecture().vocab_size

    def architecture(self) -> LanguageModelConfig:
        """The settings as their own class. Raises ValueError where they name no architecture, or wrong settings."""
        settings = self.eco or {}
        family = plugins.find("models", settings.get("family", ""))
        return cast(LanguageModelConfig, family.Config.model_validate(settings))


class Backbone(nn.Module):
    """The model without its head: tokens (B, T) int64 -> last hidden states (B, T, width)."""

    def __init__(self, model: HeadedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: EcoCache | None = None,
        use_cache: bool | None = None,
        **others: object,
    ) -> BaseModelOutputWithPast:
        """attention_mask: (B, T), 0 where a token is padding; with a cache for all its positions, (B, length + T).

        Raises:
            ValueError: something else is asked for that Eco's models do not have, or a cache that is not theirs.
        """
        refuse(others)
        if not use_cache and past_key_values is None:
            hidden = self._hidden(input_ids, attention_mask)
            return BaseModelOutputWithPast(last_hidden_state=hidden)
        cache = past_key_values
        if cache is None:
            cache = EcoCache(max(self.model.config.context, input_ids.shape[1]))
        if not isinstance(cache, EcoCache):
            raise ValueError(f"an Eco model cannot use a {type(cache).__name__}; leave past_key_values to the model")
        hidden = self.model.hidden(input_ids, cast(Any, cache.of(self.model, input_ids, attention_mask)))
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=cache)

    def _hidden(self, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Without a cache, hence with gradient. Each row's real tokens are moved to its front, where causality alone
        hides the padding from them, and the results back; what padding gets is finite and means nothing."""
        if attention_mask is None:
            return self.model.hidden(tokens)
        real = attention_mask.bool()
        longest = max(1, int(real.sum(1).max()))
        order = real.byte().argsort(dim=1, descending=True, stable=True)[:, :longest]
        hidden = self.model.hidden(tokens.gather(1, order))
        place = (real.cumsum(1) - 1).clamp(min=0)
        return hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))


class EcoForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc,unused-ignore]
    """Any of Eco's language models.

    PEFT's `target_modules`: `qkv`, `output`, `down` and `gate_up`, in a GPT-2 `up`; in a SigmaLM `input` and `output`,
    where adapters that are merged into ternary weights are rounded with them.

    config: what to build with weights drawn from seed 0, or what describes `model`, which is then used as it is and
    shares its weights; `around` makes both.
    """

    config_class = EcoConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "backbone.model.embedding.weight"}

    def __init__(self, config: EcoConfig, model: LanguageModel | None = None) -> None:
        super().__init__(config)
        if model is None:
            architecture = config.architecture()
            build = plugins.find("models", architecture.family).build
            model = cast(LanguageModel, build_model(build, architecture, seed=0, device=torch.get_default_device()))
            apply_instant(model)
        inner = _headed(model)
        for tensor in chain(inner.parameters(), inner.buffers()):
            # What has values keeps them in post_init; from_pretrained builds on no memory and fills it afterwards.
            tensor._is_hf_initialized = not tensor.is_meta  # type: ignore[attr-defined]
        self.backbone = Backbone(inner)
        if inner.head is None:
            # TRL and PEFT look for a module that holds the output matrix; tied, Eco has only the matrix.
            rows, width = inner.head_weight.shape
            self.lm_head = nn.Linear(width, rows, bias=False, device="meta")
            self.lm_head.weight = inner.embedding.weight
        self.post_init()

    @classmethod
    def around(cls, model: LanguageModel, tokenizer: Tokenizer | None = None) -> "EcoForCausalLM":
        """Wraps a model, which keeps its place and mode; `generate` ends at the tokenizer's end of text.

        Raises:
            ValueError: an architecture without one embedding and one head.
        """
        wrapped = cls(EcoConfig.of(_headed(model), tokenizer), model)
        wrapped.training = model.training
        return wrapped

    @property
    def eco(self) -> HeadedModel:
        """The model inside."""
        return self.backbone.model

    def get_input_embeddings(self) -> nn.Module:
        return self.eco.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head if self.eco.head is None else self.eco.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: EcoCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **others: object,
    ) -> CausalLMOutputWithPast:
        """logits (B, T, V), of the last `logits_to_keep` positions only where it is not 0; otherwise see `Backbone`.

        labels: (B, T) int64, `input_ids` with -100 where no loss is wanted; the shift by one is made here, and nothing
        is predicted from padding. The loss is the mean cross-entropy in nats, or the sum over `num_items_in_batch`
        where that is given.
        """
        base = self.backbone(input_ids, attention_mask, past_key_values, use_cache, **others)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(base.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            if attention_mask is not None:
                labels = labels.masked_fill(F.pad(attention_mask[:, :-1] == 0, (1, 0)), IGNORE)
            loss = self.loss_function(logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=base.past_key_values)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """Called by `generate`, which knows how many positions there will be."""
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = EcoCache(max_cache_length + 1)

    def _init_weights(self, module: nn.Module) -> None:
        """Called for what no file filled: weights that are missing there, and tables that never are in one."""
        super()._init_weights(module)
        if isinstance(module, Rotary):
            module.fill_tables()


def refuse(others: dict[str, object]) -> None:
    """Raises ValueError for an argument of transformers' models that asks for what Eco's do not do."""
    asked = [
        name for name, value in others.items() if name != "return_dict" and value is not None and value is not False
    ]
    if asked:
        raise ValueError(f"an Eco model takes no {', '.join(asked)}; leave it out")


def _headed(model: LanguageModel) -> HeadedModel:
    if not isinstance(model, HeadedModel):
        raise ValueError(f"a {model.config.family!r} model has no hidden states and head that transformers could use")
    return model


AutoConfig.register("eco", EcoConfig)
AutoModelForCausalLM.register(EcoConfig, EcoForCausalLM)
