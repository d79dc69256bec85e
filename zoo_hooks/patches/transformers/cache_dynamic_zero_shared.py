"""DynamicCache ignores the sliding window of models in which no layers share K/V.

Symptom
-------
Gemma-4 31B and 26B-A4B (``num_kv_shared_layers=0``) generate correct tokens, but the KV cache of their
sliding-window layers keeps every token. Memory grows with the whole text instead of stopping at the window.
There is no warning.

Cause
-----
``DynamicCache.__init__`` uses ``layer_types[:-num_kv_shared_layers]`` to drop the layers that share K/V. If
the number is 0, this is ``layer_types[:0]``, and no layer is left. The cache then adds plain layers without
a window as they are used.

Repair
------
If ``num_kv_shared_layers`` is 0, the constructor receives a stand-in for the config that lacks this
attribute, so it keeps every layer type. Only the constructor sees the stand-in.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tiny, _zero_shared


def probe(module: ModuleType) -> Verdict:
    return _zero_shared.verdict(module, "DynamicCache")


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.DynamicCache, "__init__", _zero_shared.constructor)


def canary() -> Figure:
    from transformers import cache_utils

    if not _zero_shared.knows_sharing(cache_utils):
        return Figure("this release knows no sharing", healthy=True)
    model = _tiny.unshared_model()
    output = model.generate(_tiny.prompt(), max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    length = _zero_shared.held(output).layers[0].keys.shape[-2]
    return Figure(length, healthy=length < model.config.sliding_window)


PATCH = Patch(
    module=__name__,
    title="DynamicCache keeps all tokens of sliding-window layers when no K/V layers are shared",
    severity="memory",
    targets=("transformers.cache_utils",),
    affects=("transformers>=4.56.0,<5.14.0",),
    links=("https://github.com/huggingface/transformers/pull/40039",),
    measures="tokens that a sliding-window layer holds after 24 tokens, window 8 (expected: 7)",
    probe=probe,
    repair=repair,
    canary=canary,
)
