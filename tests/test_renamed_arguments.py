"""Upstreams rename arguments: probes and repairs on the real ones, with those of what they call renamed."""

from __future__ import annotations

import functools
import inspect
import sys

import pytest

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict

GEMMA4 = "transformers.models.gemma4.modeling_gemma4"
UNIFIED = "transformers.models.gemma4_unified.modeling_gemma4_unified"
QUANTIZER = "transformers.quantizers.quantizer_bnb_4bit"
SKIPPED = ("transformers.quantizers.quantizers_utils", "should_convert_module")
CALLED = {
    "gemma4-audio-features-dtype": [
        (GEMMA4, "Gemma4Model.forward"),
        (GEMMA4, "Gemma4Model.get_audio_features"),
    ],
    "gemma4-unified-audio-features-dtype": [
        (UNIFIED, "Gemma4UnifiedModel.forward"),
        (UNIFIED, "Gemma4UnifiedModel.get_audio_features"),
    ],
    "gemma4-audio-attention-autocast": [
        (GEMMA4, "Gemma4AudioAttention.forward"),
        (GEMMA4, "Gemma4AudioAttention._rel_shift"),
        (GEMMA4, "Gemma4AudioAttention._convert_to_block"),
        (GEMMA4, "Gemma4AudioAttention._extract_block_context"),
    ],
    "gemma4-patch-embedder-uint8": [
        (GEMMA4, "Gemma4VisionPatchEmbedder.forward"),
        (GEMMA4, "Gemma4VisionPatchEmbedder._position_embeddings"),
    ],
    "gemma4-unified-embedders-uint8": [
        (UNIFIED, "Gemma4UnifiedVisionEmbedder.forward"),
        (UNIFIED, "Gemma4UnifiedMultimodalEmbedder.forward"),
    ],
    "gemma4-patch-embedder-packed-4bit": [
        (QUANTIZER, "Bnb4BitHfQuantizer.preprocess_model"),
        (QUANTIZER, "Bnb4BitHfQuantizer.get_modules_to_not_convert"),
        SKIPPED,
    ],
    "skip-list-inner-names-4bit": [
        (QUANTIZER, "Bnb4BitHfQuantizer._process_model_before_weight_loading"),
        SKIPPED,
    ],
    "bare-linear-packed-4bit": [
        ("transformers.integrations.bitsandbytes", "Bnb4bitDeserialize.convert"),
        ("transformers.core_model_loading", "convert_and_load_state_dict_in_model"),
    ],
    "trainer-rng-state": [("transformers.trainer", "Trainer._load_rng_state")],
    "input-require-grads": [("transformers.modeling_utils", "PreTrainedModel.__init__")],
    "wandb-broken": [("transformers.integrations.integration_utils", "is_wandb_available")],
    "accelerate-wandb-broken": [
        ("accelerate.tracking", "filter_trackers"),
        ("accelerate.utils.imports", "is_wandb_available"),
    ],
    "replicate-parallel-import": [("accelerate.accelerator", "Accelerator._prepare_tp")],
    "trl-availability-flags": [("trl.import_utils", "_is_package_available")],
    "free-rlock-restored-taken": [("dill._dill", "_create_rlock"), ("dill._dill", "save_rlock")],
    "compiled-autograd-entered-twice": [
        ("torch._dynamo.compiled_autograd", "AutogradCompilerInstance.end_capture"),
    ],
}
"""By patch, what of its upstreams its probe and repair call, or stand in for."""
NEW = "_as_it_is_called_now"


def renamed(function):
    """The same behind a decorator that knows each argument by a new name only, as its signature says."""
    signature = inspect.signature(function)
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = {
        name: name + NEW
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls") and parameter.kind not in fixed
    }

    @functools.wraps(function)
    def outer(*args, **kwargs):
        if gone := names.keys() & kwargs.keys():
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {min(gone)!r}")
        return function(*args, **{name.removesuffix(NEW): value for name, value in kwargs.items()})

    outer.__signature__ = signature.replace(
        parameters=[one.replace(name=names.get(name, name)) for name, one in signature.parameters.items()]
    )
    return outer


def found(module, path):
    """Where a function or method stands, its name there, and what lies there, if anything does."""
    *kinds, name = path.split(".")
    owner = functools.reduce(getattr, kinds, sys.modules[module])
    return owner, name, inspect.getattr_static(owner, name, None)


def rename(module, path, monkeypatch):
    """Rename the arguments of a function or method, and of the copies of other modules; what is there now."""
    owner, name, raw = found(module, path)
    if raw is None:
        return None
    kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
    new = renamed(raw.__func__ if kind else raw)
    new = kind(new) if kind else new
    for place, known in [(owner, name)] if isinstance(owner, type) else copies_of(raw):
        monkeypatch.setattr(place, known, new)
    return new


def copies_of(function):
    """Each module that has it, with the name that it has there."""
    return [
        (module, name)
        for module in list(sys.modules.values())
        if getattr(module, "__dict__", None)
        for name, value in list(vars(module).items())
        if value is function
    ]


def judged(patch, target):
    """The verdict, that after the repair if there is one to make, and what then stands where it calls."""
    changes = Changes()
    verdict = patch.probe(target)
    after, standing = verdict, []
    try:
        if verdict is Verdict.AFFECTED:
            patch.repair(target, changes)
            assert changes
            after = patch.probe(target)
            standing = [found(*place)[2] for place in CALLED[patch.id]]
    finally:
        changes.undo()
    return verdict, after, standing


@pytest.mark.parametrize("patch_id", CALLED)
def test_a_rename_does_not_deceive(patch_id, monkeypatch):
    """The verdict is the same or UNKNOWN; nothing raises, and a repair that is made shows."""
    patch = catalogue.get(patch_id)
    for module in {*patch.requires, *patch.targets, *(module for module, _ in CALLED[patch_id])}:
        pytest.importorskip(module, exc_type=ModuleNotFoundError)
    target = sys.modules[patch.targets[0]]
    with zoo_hooks.disabled(patch_id), monkeypatch.context() as names:
        plain, *_ = judged(patch, target)
        new = [rename(*place, names) for place in CALLED[patch_id]]
        verdict, after, standing = judged(patch, target)
    assert verdict in (plain, Verdict.UNKNOWN)
    assert after is not Verdict.AFFECTED or not patch.behavioural
    for wrapper in (one for one in standing if one is not None and one not in new):
        code = getattr(wrapper, "__func__", wrapper).__code__
        assert set(code.co_varnames[: code.co_argcount]) <= {"self"}  # it takes all else as it comes
