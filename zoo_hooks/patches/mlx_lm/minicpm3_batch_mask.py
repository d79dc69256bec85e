"""MiniCPM3 in mlx-lm attends to the padding of a batch.

Symptom
-------
A prompt that is shorter than its neighbors in a batch gets a different text than the same prompt alone. No
error is raised. In a random model, logits are off by 1.8 on a scale of 1.6, in the prompt and in each step
after it.

Cause
-----
The model passes the list of all layers' KV caches to ``create_attention_mask``. Since pull request 430,
this function of mlx-lm expects one cache. A list has no ``make_mask``, so the mask does not include the
padding. In a decoding step, there is no mask at all.

Repair
------
The mask is requested from the first cache, as in other models. Without a cache, or with the cache of a
single text, nothing changes.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_lm import _batch_mask, _tiny


def probe(module: ModuleType) -> Verdict:
    import mlx.core as mx

    embed, args = lambda _: mx.zeros((1, 2, 4)), SimpleNamespace(scale_emb=1.0)
    model = SimpleNamespace(embed_tokens=embed, args=args, layers=[], norm=lambda h: h)
    return _batch_mask.verdict(module, "MiniCPM3Model", model)


def repair(module: ModuleType, changes: Changes) -> None:
    _batch_mask.ask_the_first(changes, module)


def canary() -> Figure:
    import mlx.core as mx
    from mlx_lm.models.cache import BatchKVCache

    model, tokens, pad = _tiny.minicpm3(), _tiny.prompt(8), 5
    short = mx.concatenate([mx.zeros((1, pad), dtype=tokens.dtype), tokens[:, :3]], axis=1)
    cache = [BatchKVCache([0, pad]) for _ in model.layers]
    prompt = model(mx.concatenate([tokens, short]), cache=cache)[1:, pad:]
    step = model(mx.concatenate([tokens[:, 3:4]] * 2), cache=cache)[1:]
    alone = model(tokens[:, :4])
    errors = abs(prompt - alone[:, :3]).max().item(), abs(step - alone[:, 3:]).max().item()
    return Figure(f"{errors[0]:.3g}, {errors[1]:.3g}", healthy=max(errors) < _tiny.SMALL)


PATCH = Patch(
    module=__name__,
    title="MiniCPM3 in mlx-lm attends to the padding of a batch",
    severity="silent wrong result",
    targets=("mlx_lm.models.minicpm3",),
    affects=("mlx-lm>=0.30.0,<0.32.1",),
    links=(
        "https://github.com/ml-explore/mlx-lm/issues/1906",
        "https://github.com/ml-explore/mlx-lm/pull/1913",
    ),
    measures="errors of logits in a padded row: of its prompt, of the next step (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
