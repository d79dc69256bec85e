"""Prompt tuning, p-tuning, multitask prompt tuning and CPT fail on Gemma-4 E2B and E4B.

Symptom
-------
The forward pass and ``generate`` with prompt tuning, p-tuning, multitask prompt tuning or CPT raise
``RuntimeError: It seems like you tried to call `forward` from `inputs_embeds` without providing `input_ids`
``. On a real model, the search for matching weights runs out of memory first (it asked for 1690 GiB). The
search succeeds for a CPT prompt that is not trained yet.

Cause
-----
peft passes embeddings to the base model: those of the prompt, followed by those of the text. E2B and E4B
have a second embedding of each token for each layer. To find it, they search for the tokens that have the
given embeddings. The embeddings of a prompt belong to no token.

Repair
------
peft also passes the second embeddings, as ``per_layer_inputs``. For the text, these are the embeddings of
its tokens. For a prompt, they are those of the padding token, which Gemma-4 also uses for images. For CPT,
they are those of the tokens of its prompt.

zoo-hooks leaves alone embeddings that come without tokens. It also leaves alone the models with towers in
transformers 5.5, which do not accept this argument.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

PEFT_MODEL = "peft.peft_model"
GEMMA4 = "transformers.models.gemma4.modeling_gemma4"
NAME = "per_layer_inputs"
PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
OTHERS = ("image_token_id", "video_token_id", "audio_token_id")
ROUNDING = 1e-5


def probe(_: ModuleType) -> Verdict:
    kind, text_model = sys.modules[PEFT_MODEL].PeftModelForCausalLM, sys.modules[GEMMA4].Gemma4TextModel
    import torch

    text = text_model.__new__(text_model)
    torch.nn.Module.__init__(text)
    text.hidden_size_per_layer_input = 1
    text.config = SimpleNamespace(hidden_size=1, num_hidden_layers=1, pad_token_id=0)
    text.embed_tokens = SimpleNamespace(weight=torch.zeros(2, 1))
    text.embed_tokens_per_layer = lambda ids: torch.zeros(*ids.shape, 1)
    with symptom(
        RuntimeError, "do not exactly match the embedding weights", by=text_model.get_per_layer_inputs
    ):
        text.get_per_layer_inputs(None, torch.ones(1, 3, 1))
        return Verdict.FIXED
    handed: dict[str, Any] = {}
    base = SimpleNamespace(config=text.config, model=text)
    config = SimpleNamespace(peft_type="PROMPT_TUNING", is_prompt_learning=True, num_virtual_tokens=1)
    model = SimpleNamespace(
        active_peft_config=config,
        base_model=lambda **kwargs: handed.update(kwargs), get_base_model=lambda: base,
        get_prompt=lambda **_: torch.zeros(1, 1, 1), word_embeddings=lambda ids: torch.zeros(*ids.shape, 1),
        _adjust_prompt_learning_kwargs=lambda *_, **__: None,
    )  # fmt: skip
    kind.forward(model, input_ids=torch.zeros(1, 2, dtype=torch.long))
    if "inputs_embeds" not in handed:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if handed.get(NAME) is None else Verdict.FIXED


def repair(_: ModuleType, changes: Changes) -> None:
    kind, gemma4 = sys.modules[PEFT_MODEL].PeftModelForCausalLM, sys.modules[GEMMA4]
    whole = gemma4.Gemma4ForConditionalGeneration
    deaf = () if NAME in inspect.signature(whole.forward).parameters else (whole,)
    layered = functools.partial(_layered, gemma4.Gemma4TextModel, deaf)
    changes.wrap(kind, "forward", functools.partial(_forward, layered))
    changes.wrap(kind, "prepare_inputs_for_generation", functools.partial(_prepare, layered))


def _layered(text_model: Any, deaf: tuple[Any, ...], model: Any, input_ids: Any) -> Any:
    """The second embeddings of a prompt and the tokens behind it, None where there are none."""
    import torch

    config = model.active_peft_config
    if input_ids is None or not config.is_prompt_learning or config.peft_type in PREFIXES:
        return None
    base = model.get_base_model()
    text = getattr(base, "model", None)
    text = getattr(text, "language_model", text)
    if not isinstance(text, text_model) or not text.hidden_size_per_layer_input or isinstance(base, deaf):
        return None
    padding = text.config.pad_token_id or 0
    for name in OTHERS:  # what is not text has the padding token's
        if (other := getattr(base.config, name, None)) is not None:
            input_ids = input_ids.masked_fill(input_ids == other, padding)
    prompt = input_ids.new_full((len(input_ids), config.num_virtual_tokens), padding)
    if config.peft_type == "CPT":
        prompt[:] = input_ids.new_tensor(config.cpt_token_ids)
    return text.get_per_layer_inputs(torch.cat([prompt, input_ids], dim=1), None)


def _forward(layered: Callable[[Any, Any], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get(NAME) is None and (found := layered(self, input_ids)) is not None:
            kwargs[NAME] = found
        return original(self, input_ids, *args, **kwargs)

    return forward


def _prepare(layered: Callable[[Any, Any], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_inputs_for_generation(self: Any, *args: Any, **kwargs: Any) -> Any:
        prepared = original(self, *args, **kwargs)
        if prepared.get("input_ids") is None and prepared.get(NAME) is None:  # peft has put the prompt in
            found = layered(self, args[0] if args else kwargs.get("input_ids"))
            if found is not None and found.shape[:2] == prepared["inputs_embeds"].shape[:2]:
                prepared[NAME] = found
        return prepared

    return prepare_inputs_for_generation


def canary() -> Figure:
    import torch
    from peft import PromptTuningConfig, get_peft_model

    from zoo_hooks.patches.transformers import _tiny

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        base = _tiny.shared_model(**_tiny.PER_LAYER_INPUTS)
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        model = get_peft_model(base, config).eval()
        text = torch.arange(3, 11)[None]
        seen = model(text).logits
        tokens = torch.cat([torch.full((1, 3), base.config.pad_token_id or 0), text], dim=1)
        expected = base(
            inputs_embeds=torch.cat([model.get_prompt(1), base.get_input_embeddings()(text)], dim=1),
            per_layer_inputs=base.model.get_per_layer_inputs(tokens, None),
        ).logits
        gap = float((seen - expected).abs().max())
    return Figure(gap, healthy=gap < ROUNDING)


PATCH = Patch(
    module=__name__,
    title="Prompt tuning, p-tuning and CPT fail on Gemma-4 E2B and E4B",
    severity="crash",
    symptoms=(
        "tried to call `forward` from `inputs_embeds` without providing `input_ids` @ peft.peft_model",
    ),
    targets=(PEFT_MODEL, GEMMA4),
    affects=("peft>=0.15.0", "transformers>=5.5.0"),
    links=(
        "https://github.com/huggingface/peft/issues/3201",
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/gemma4/modeling_gemma4.py#L1705",
    ),
    measures=(
        "largest difference in logits from a base model that gets both embeddings directly (expected: 0)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
    requires=(PEFT_MODEL, GEMMA4),
)
