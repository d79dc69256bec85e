"""``load_in_4bit=True`` also quantizes Gemma-4's patch embedder, which distorts every image.

Symptom
-------
With ``load_in_4bit=True`` and no list of modules to skip, the patch embedder is quantized too. All pixels
go through this one small matrix, and quantizing it saves less than 2 MB. In the canary's tiny model,
embedded patches are off by 0.8 %. Before 5.13.0 they are off by a factor of 20, because those releases also
cast pixels to whole numbers (``gemma4-patch-embedder-uint8``).

Cause
-----
By default, transformers skips only the output embeddings and the weights that are tied to them.
``Gemma4VisionPatchEmbedder`` projects with a plain ``nn.Linear``, which cannot be told apart from the
``nn.Linear`` modules of the layers.

Repair
------
If a model is quantized without a list of modules to skip, it gets the default list plus the paths of its
patch embedders. The list is saved with the model, so the saved model also loads without the repair. Lists
that users pass, and checkpoints that are already quantized, are not changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _calls
from zoo_hooks.patches.transformers import _four_bit

PATH = "vision_tower.patch_embedder"


def probe(module: ModuleType) -> Verdict:
    kind = module.Gemma4VisionPatchEmbedder

    import torch
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    class Model(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        all_tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 - as upstream has it

        def get_output_embeddings(self) -> None:
            """Nothing, as a model without a head."""

    embedder = kind.__new__(kind)
    torch.nn.Module.__init__(embedder)
    model = Model()
    model.vision_tower, model.head, embedder.input_proj = (torch.nn.Module() for _ in range(3))
    model.vision_tower.patch_embedder = embedder
    for layer in (embedder.input_proj, model.head):
        layer.weight = torch.nn.Parameter(torch.empty(0))
    skipped = Bnb4BitHfQuantizer.get_modules_to_not_convert(model)
    packed = should_convert_module(f"{PATH}.input_proj", skipped)
    return Verdict.AFFECTED if packed else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    changes.wrap(Bnb4BitHfQuantizer, "preprocess_model", _leaving_out(module.Gemma4VisionPatchEmbedder))


def _leaving_out(kind: type) -> Callable[[Any], Callable[..., Any]]:
    from transformers.quantizers.base import get_keys_to_not_convert

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        find = _calls.first_argument(original)

        def preprocess_model(self: Any, *args: Any, **kwargs: Any) -> Any:
            config, model = self.quantization_config, find(args, kwargs)
            found = {path for path, part in model.named_modules() if isinstance(part, kind)}
            if found and config.llm_int8_skip_modules is None and not self.pre_quantized:
                self.quantization_config = copy.copy(config)  # the user's own stays
                listed = sorted(found | set(get_keys_to_not_convert(model)))
                self.quantization_config.llm_int8_skip_modules = listed
            return original(self, *args, **kwargs)

        return preprocess_model

    return make


def canary() -> Figure:
    import torch

    plain = _four_bit.vision_model()
    packed = _four_bit.quantised(_four_bit.vision_model())
    inputs = _four_bit.vision_inputs()
    given = inputs["pixel_values"], inputs["image_position_ids"], torch.zeros(1, 16, dtype=torch.bool)
    with torch.no_grad():
        expected, seen = (model.model.vision_tower.patch_embedder(*given) for model in (plain, packed))
    error = float((seen - expected).norm() / expected.norm())
    return Figure(round(error, 4), healthy=error == 0.0)


PATCH = Patch(
    module=__name__,
    title="Gemma-4's patch embedder is quantized to 4 bits by default",
    severity="silent wrong result",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/base.py#L39-L63",
        "https://github.com/huggingface/transformers/issues/46932",
    ),
    measures="relative error of embedded patches, quantized model against unquantized (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # the list is made longer before upstream makes its own
)
