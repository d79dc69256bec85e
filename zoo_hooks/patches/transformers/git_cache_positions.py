"""GIT generates other tokens with its cache than without, because it counts positions wrongly.

Symptom
-------
From 5.0.0 to 5.17.0, captions and answers of GIT depend on ``use_cache``, which is on by default. In the
canary's random model 3 to 5 of 6 tokens differ. There is no error. From 5.1.0 to 5.17.0 this happens without
an image too, and calls of the model, step by step and without ``position_ids``, raise ``TypeError:
unsupported operand type(s) for +: 'NoneType' and 'int'``. From 5.18.0 on, ``generate`` is correct, but such
calls give wrong tokens.

Cause
-----
Since 5.0.0 the cache also holds the patches of the image, which have no position among those of the text.
The positions of new tokens follow the length of the cache. From 5.1.0 to 5.17.0 the length of the cache is
also added to the positions that ``generate`` has computed.

Repair
------
``GitModel.forward`` gets the positions of the text: the caller's, or those that follow the text in the cache.
For this zoo-hooks writes on the cache how many of its entries came from an image. Up to 5.17.0, calls for a
single token also need an attention mask; without one from the caller, all tokens of the text are seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom
from zoo_hooks.patches.transformers import _cache_name, _foreign, _source

IMAGES = "zoo_hooks_image_tokens"
"""The attribute of a cache that says how many of its entries came from an image."""
READ = {"input_ids", "inputs_embeds", "attention_mask", "position_ids", "pixel_values"}
"""The arguments that the repair reads or adds."""
PAST, PATCHES, GIVEN = 12, 4, 5
"""In the probe: entries of a cache, those of its image among them, and the position of a new token."""


class _SeenError(Exception):
    """Ends the probe's call where the embeddings are told the positions."""


def probe(module: ModuleType) -> Verdict:
    if "pixel_values_present" in inspect.signature(module.GitSelfAttention.forward).parameters:
        return Verdict.FIXED  # before 5.0 no image came into the cache
    if not READ.issubset(_cache_name.parameters(module.GitModel.forward)):
        return Verdict.UNKNOWN
    right = {None: PAST - PATCHES, GIVEN: GIVEN}
    seen = {given: _position(module, given) for given in right}
    if seen == right:
        return Verdict.FIXED
    counted = {None: (None, PAST), GIVEN: (GIVEN, GIVEN + PAST)}  # None is of a call that raises
    return Verdict.AFFECTED if all(seen[one] in counted[one] for one in right) else Verdict.UNKNOWN


def _position(module: ModuleType, given: int | None) -> int | None:
    """The position of a token after twelve in the cache, four of them of an image; None without one."""
    torch, seen = module.torch, []

    def embed(position_ids: Any = None, **more: Any) -> None:
        length = next(value for name, value in more.items() if name.endswith("_length"))
        seen.append(length if position_ids is None else position_ids.item())
        raise _SeenError

    attention = SimpleNamespace(self=SimpleNamespace(image_patch_tokens=PATCHES))
    model = _foreign.bare(module.GitModel)
    model.config, model.embeddings = module.GitConfig(), embed
    model.encoder = SimpleNamespace(layer=[SimpleNamespace(attention=attention)])
    cache = module.DynamicCache()
    cache.get_seq_length = lambda *_: PAST
    setattr(cache, IMAGES, PATCHES)
    ids = torch.ones(1, 1, dtype=torch.long)
    positions = {} if given is None else {"position_ids": given * ids}
    forward = module.GitModel.forward
    with suppress(_SeenError), symptom(TypeError, "'NoneType' and 'int'", by=forward):
        forward(model, input_ids=ids, use_cache=True, **{_name(module): cache}, **positions)
    return seen[0] if seen else None


def _name(module: ModuleType) -> str:
    return _cache_name.taken(module.GitModel.forward) or _cache_name.OLD[0]


def repair(module: ModuleType, changes: Changes) -> None:
    name, torch = _name(module), module.torch
    added = _position(module, GIVEN) != GIVEN

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        names = [*inspect.signature(original).parameters][1:]

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            cache, ids, embeds = (given.get(one) for one in (name, "input_ids", "inputs_embeds"))
            states = embeds if ids is None else ids
            past = 0 if cache is None else cache.get_seq_length()
            if states is not None and given.get("pixel_values") is not None:
                result = original(self, *args, **kwargs)
                _note(result if cache is None else [cache], module.Cache, past + states.shape[1])
                return result
            if states is not None and cache is not None:
                batch, count = states.shape[:2]
                text = past - getattr(cache, IMAGES, 0)
                positions = given.get("position_ids")
                if positions is None:
                    positions = torch.arange(text, text + count, device=states.device)[None]
                given["position_ids"] = positions - past if added and count == 1 else positions
                if count == 1 and given.get("attention_mask") is None:  # up to 5.17.0 it must not be
                    given["attention_mask"] = positions.new_ones(batch, text + 1)
            return original(self, **given)

        return forward

    changes.wrap(module.GitModel, "forward", make)


def _note(values: Any, kind: Any, text: int) -> None:
    """Write on a cache how many of its entries are not of the text."""
    for one in values.values() if isinstance(values, dict) else values:
        if isinstance(one, kind):
            setattr(one, IMAGES, one.get_seq_length() - text)


def canary() -> Figure:
    import torch

    from zoo_hooks.patches.transformers.git_inputs_changed import small_model

    model, inputs = small_model()
    ids, name = torch.arange(3, 11)[None], _cache_name.taken(inspect.unwrap(type(model).forward))
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **inputs}
    expected = model.generate(ids, **how, use_cache=False)
    wrong = int((model.generate(ids, **how) != expected).sum())
    if not wrong:
        wrong = int((steps(model, ids, inputs, name) != expected).sum())
    return Figure(wrong, healthy=wrong == 0)


def steps(model: Any, ids: Any, inputs: dict[str, Any], name: Any, count: int = 6) -> Any:
    """Greedy tokens by calls of the model that are told no positions."""
    import torch

    cache, step = None, ids
    with torch.no_grad():
        for _ in range(count):
            output = model(step, use_cache=True, **{name: cache}, **({} if cache else inputs))
            cache, step = output[name], output.logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, step], 1)
    return ids


PATCH = Patch(
    module=__name__,
    title="GIT generates other tokens with its cache than without",
    severity="silent wrong result",
    symptoms=("unsupported operand type(s) for +: 'NoneType' and 'int' @ modeling_git",),
    targets=("transformers.models.git.modeling_git",),
    affects=("transformers>=5.0.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.17.0/src/transformers/models/git/modeling_git.py#L794",
        _source.link("transformers.models.git.modeling_git", 790),
    ),
    measures="tokens, of 6, that differ with the cache, in generate or step by step (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
