"""Prompt learning on tiny models: methods of peft, ways to generate, and what comes of each.

``transformers`` hands on a cache by one of two names. ``OldName`` is a model that hands it on by the old one,
as those of 5.23.0 do: on it peft is right by itself, and so is the oracle for one that uses the new name.
"""

from __future__ import annotations

import copy

import peft
import torch
import transformers

torch.set_num_threads(1)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "initializer_range": 0.2,
}
VIRTUAL, STEPS = 4, 8
TEXT = torch.arange(3, 15)[None]
ENCODER_DECODER = transformers.BartConfig(
    d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=64, max_position_embeddings=64, init_std=0.2,
    decoder_start_token_id=2, forced_eos_token_id=None, forced_bos_token_id=None,
)  # fmt: skip


def old_name(kind):
    """A model class that hands on the cache as ``past_key_values``, and takes it so."""

    class OldName(kind):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            prepared = super().prepare_inputs_for_generation(*args, **kwargs)
            if "cache" in prepared:
                prepared["past_key_values"] = prepared.pop("cache")
            return prepared

    OldName.__name__ = kind.__name__  # an error may name it
    return OldName


KINDS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SIZES)),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SIZES)),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, initializer_range=0.2),
    ),
    "bart": (transformers.BartForConditionalGeneration, ENCODER_DECODER),
}
METHODS = {
    "prompt": peft.PromptTuningConfig,
    "p-tuning": peft.PromptEncoderConfig,
    "multitask": peft.MultitaskPromptTuningConfig,
    "cpt": peft.CPTConfig,
    "prefix": peft.PrefixTuningConfig,
}
if hasattr(peft, "CartridgeConfig"):
    METHODS["cartridge"] = peft.CartridgeConfig
OPTIONS = {
    "p-tuning": {"encoder_hidden_size": 16},
    "multitask": {"num_tasks": 2},
    "cpt": {"cpt_token_ids": [1, 2, 3, 4], "cpt_mask": [1] * 4, "cpt_tokens_type_mask": [1, 2, 3, 4]},
}


def base(name, *, old=False):
    kind, config = KINDS[name]
    torch.manual_seed(0)
    model = (old_name(kind) if old else kind)(copy.deepcopy(config)).eval()
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, decoder_start_token_id=config.to_dict().get("decoder_start_token_id")
    )
    return model


def config(method, task="CAUSAL_LM"):
    more = {} if method == "cpt" else {"num_virtual_tokens": VIRTUAL}
    return METHODS[method](task_type=task, **more, **OPTIONS.get(method, {}))


def trained(model):
    """The model with other values for all that is trained."""
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def prompted(name, method, *, old=False):
    task = "SEQ_2_SEQ_LM" if name == "bart" else "CAUSAL_LM"
    return trained(peft.get_peft_model(base(name, old=old), config(method, task)))


def shadowed():
    """A shadow adapter, which is no prompt, but has a cache of its own too."""
    torch.manual_seed(3)
    model = peft.get_peft_model(base("llama"), peft.ShadowConfig(task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "shadow" in name:
            torch.nn.init.normal_(weight)
    return model.eval()


def generate(model, text=TEXT, mask=None, **how):
    settings = {"max_new_tokens": STEPS, "do_sample": False, **how}
    if model.active_peft_config.peft_type == "MULTITASK_PROMPT_TUNING":
        settings["task_ids"] = torch.ones(len(text), dtype=torch.long)
    torch.manual_seed(2)
    mask = torch.ones_like(text) if mask is None else mask
    return model.generate(input_ids=text, attention_mask=mask, **settings)


def recomputed(model):
    """Greedy tokens by the forward pass over the whole text, without any cache."""
    text, more = TEXT, {}
    if model.active_peft_config.peft_type == "MULTITASK_PROMPT_TUNING":
        more["task_ids"] = torch.ones(1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(STEPS):
            token = model(input_ids=text, attention_mask=torch.ones_like(text), **more).logits[:, -1:]
            text = torch.cat([text, token.argmax(-1)], dim=1)
    return text


def padded(model):
    text = torch.cat([TEXT, TEXT.flip(1)])
    mask = torch.ones_like(text)
    mask[0, :4] = 0
    return generate(model, text, mask)


def embedded(model):
    more = {}
    if model.active_peft_config.peft_type == "MULTITASK_PROMPT_TUNING":
        more["task_ids"] = torch.ones(1, dtype=torch.long)
    return model.generate(
        inputs_embeds=model.get_input_embeddings()(TEXT), attention_mask=torch.ones_like(TEXT),
        max_new_tokens=STEPS, do_sample=False, **more,
    )  # fmt: skip


def continued(model):
    """A second text after the cache that the first one left."""
    first = generate(model, return_dict_in_generate=True)
    text = torch.cat([first.sequences, torch.tensor([[7, 8]])], dim=1)
    return generate(model, text, past_key_values=first.past_key_values, max_new_tokens=4)


def without_adapter(model):
    with model.disable_adapter():
        inside = generate(model)
    return torch.cat([inside, generate(model)])


def after_an_error(model):
    class Stop(transformers.StoppingCriteria):
        def __call__(self, *_, **__):
            raise ZeroDivisionError

    try:
        generate(model, stopping_criteria=transformers.StoppingCriteriaList([Stop()]))
    except ZeroDivisionError:
        return generate(model)
    raise AssertionError("nothing was raised")


WAYS = {
    "greedy": generate,
    "logits": lambda model: torch.stack(
        generate(model, output_logits=True, return_dict_in_generate=True).logits
    ).round(decimals=4),
    "beams": lambda model: generate(model, num_beams=3),
    "sampling": lambda model: generate(model, do_sample=True),
    "no cache": lambda model: generate(model, use_cache=False),
    "static cache": lambda model: generate(model, cache_implementation="static", disable_compile=True),
    "padded": padded,
    "embedded": embedded,
    "continued": continued,
    "assisted": lambda model: generate(model, assistant_model=base("llama")),
    "looked up": lambda model: generate(model, prompt_lookup_num_tokens=2),
    "in chunks": lambda model: generate(model, prefill_chunk_size=4),
    "without adapter": without_adapter,
    "after an error": after_an_error,
    "copied": lambda model: generate(copy.deepcopy(model)),
    "base afterwards": lambda model: torch.cat([generate(model), model.base_model.generate(
        input_ids=TEXT, attention_mask=torch.ones_like(TEXT), max_new_tokens=STEPS, do_sample=False
    )]),
}  # fmt: skip


def outcome(way, model):
    """The tokens, or the error, for some ways are not open to peft with any transformers 5."""
    try:
        return WAYS[way](model).tolist()
    except Exception as error:  # noqa: BLE001 - it is what comes of it
        return f"{type(error).__name__}: {error}"
