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

from zoo_hooks.patches.mlx_lm import _batch_mask, _tiny

PATCH = _batch_mask.Row(
    module=__name__,
    family="MiniCPM3",
    target="mlx_lm.models.minicpm3",
    kind="MiniCPM3Model",
    model=_tiny.minicpm3,
    affects="mlx-lm>=0.30.0,<0.32.1",
    links=(
        "https://github.com/ml-explore/mlx-lm/issues/1906",
        "https://github.com/ml-explore/mlx-lm/pull/1913",
    ),
).patch()
