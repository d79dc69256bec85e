"""Phixtral in mlx-lm attends to the padding of a batch.

Symptom
-------
A prompt that is shorter than its neighbors in a batch gets a different text than the same prompt alone. No
error is raised. In the canary's random model, logits are off by 0.97 in the prompt, and by 0.55 in the next
step.

Cause
-----
The model passes the list of all layers' KV caches to ``create_attention_mask``. This function of mlx-lm
expects one cache. A list has no ``make_mask``, so the mask does not include the padding. In a decoding step,
there is no mask at all.

Repair
------
The mask is requested from the first cache, as in other models. Without a cache, or with the cache of a
single text, nothing changes.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_lm import _batch_mask, _tiny


def _model() -> Any:
    from mlx_lm.models import phixtral

    shape = {"num_vocab": 96, "model_dim": 32, "num_heads": 4, "num_layers": 2, "rotary_dim": 4}
    return _tiny.filled(phixtral.Model(phixtral.ModelArgs(model_type="phixtral", **shape)))


PATCH = _batch_mask.Row(
    module=__name__,
    family="Phixtral",
    target="mlx_lm.models.phixtral",
    kind="Model",
    model=_model,
    affects="mlx-lm>=0.30.0,<0.32.1",
    links=("https://github.com/ml-explore/mlx-lm/blob/v0.31.3/mlx_lm/models/phixtral.py",),
).patch()
