"""StaticCache has no layers for models in which no layers share K/V.

Symptom
-------
``generate(cache_implementation="static")`` with Gemma-4 31B or 26B-A4B (``num_kv_shared_layers=0``) raises
``IndexError: list index out of range``.

Cause
-----
``StaticCache.__init__`` uses ``layer_types[:-num_kv_shared_layers]`` to drop the layers that share K/V. If
the number is 0, this is ``layer_types[:0]``, and the cache has no layers at all.

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
    return _zero_shared.verdict(module, "StaticCache", max_cache_len=16)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.StaticCache, "__init__", _zero_shared.constructor)


def canary() -> Figure:
    from transformers import cache_utils

    if not _zero_shared.knows_sharing(cache_utils):
        return Figure("this release knows no sharing", healthy=True)
    model = _tiny.unshared_model()
    expected, cached = (
        model.generate(_tiny.prompt(), max_new_tokens=12, do_sample=False, **how)
        for how in ({"use_cache": False}, {"cache_implementation": "static", "disable_compile": True})
    )
    different = int((expected != cached).sum())
    return Figure(different, healthy=different == 0)


PATCH = Patch(
    module=__name__,
    title="StaticCache has no layers when no K/V layers are shared",
    severity="crash",
    symptoms=("list index out of range @ transformers.cache_utils @ update",),
    targets=("transformers.cache_utils",),
    affects=("transformers>=4.56.0,<5.10.1",),
    links=("https://github.com/huggingface/transformers/pull/46235",),
    measures="tokens that differ from decoding without a cache, of 24 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
