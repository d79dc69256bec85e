"""However a repaired module is used, what comes out is right, or what comes out without the hooks.

A number that is finite and wrong is neither, nor is an error that upstream does not raise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
import variants
from battery import MODELS, PATCHES
from conftest import exists
from test_battery import alone as child

import zoo_hooks
from zoo_hooks import catalogue

ELSEWHERE = {
    "peft/gemma4-prompt-per-layer-inputs",
    "peft/prompt-learning-generate",
    "peft/shadow-cache-dropped",
}
"""Patches of modules that none of the battery's models has; their own tests try variants."""
for some in PATCHES:
    for target in filter(exists, catalogue.get(some).targets):
        import_module(target)
CHANGED = {
    some: changed
    for some, changed in variants.repaired().items()
    if some in PATCHES and some not in ELSEWHERE
}
"""The methods of modules that each patch has changed here."""
variants.watch([one for changed in CHANGED.values() for one in changed])
NAMES = list(dict.fromkeys(next(name for name in PATCHES[some] if name in MODELS) for some in CHANGED))
"""Of each of these patches the first model."""
LAYERED = [name for name in NAMES if variants.layers(variants.build(name))]
"""Those whose repaired modules hold linear layers."""
CASES = [(how, name) for how in (*variants.BY_MODEL, *variants.BY_PART) for name in NAMES]
CASES += [("steered", name) for name in LAYERED]
CASES += [(option, name) for option in variants.OPTIONS for name in LAYERED if find_spec("peft")]
BESIDE = {
    "where": {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"},
    "how large": {"lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout"},
    "more layers than the config names kinds of": {"layer_replication"},
    "when": {"alora_invocation_tokens", "velora_config", "runtime_config", "ensure_weight_tying"},
    "first values": {"init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"},
    "Megatron's layers": {"megatron_config", "megatron_core"},
    "layers packed by GPTQ": {"use_qalora", "qalora_group_size"},
    "adapters that were saved": {"arrow_config"},
    "about the file": {
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode",
    },
}  # fmt: skip
"""Options of LoraConfig that are not tried, by what they are about: no parameters, or what is not here."""


@pytest.fixture(scope="module")
def both(request, tmp_path_factory):
    """What comes out of each chosen case; and without the hooks of those that do not come out right."""
    gc.freeze()  # tracing collects garbage often
    chosen = [item.callspec.params["case"] for item in request.session.items if item.function is TEST]
    found = {case: variants.seen(*case) for case in chosen}
    asked = [case for case in chosen if set(found[case]) != set(right(case, found[case]))]
    file = tmp_path_factory.mktemp("variants") / "without"
    given = str(file), list(CHANGED.values()), asked, NAMES
    child(f"import variants; variants.without(*{given!r}); print()", ZOO_HOOKS="0")
    return found, torch.load(file, weights_only=False)


def right(case, found):
    """The parts that come out right, as far as that is known; an error never does."""
    outcomes = {part: value for part, value in found.items() if isinstance(value, torch.Tensor)}
    expected = variants.expected(*case) if outcomes else {}
    return [
        part
        for part, value in outcomes.items()
        if any(variants.near(value, expected.get(key), MODELS[case[1]].error) for key in (part, "logits"))
    ]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_comes_out_is_right_or_what_upstream_gives(case, both):
    """What is right is said with each variant. Shapes that only a repair lets come out are right too."""
    found, without, plain = both[0][case], both[1]["cases"].get(case), both[1]["plain"][case[1]]
    for part in set(found) - set(right(case, found)):
        value, other = found[part], without.get(part, without.get(""))
        if not isinstance(value, torch.Tensor) and (other is None or fails_anyway(value, other, plain)):
            continue
        lost = isinstance(value, torch.Tensor) and not value.isfinite().all()
        upstreams = isinstance(other, torch.Tensor) and not other.isfinite().all()
        assert variants.near(value, other, 0.0) or (lost and upstreams), (part, said(value), said(other))


def fails_anyway(value, other, plain):
    """Tell whether upstream fails where a repair does not, or cannot have the model even as it is."""
    fails = isinstance(other, variants.Failure)
    return fails and (not isinstance(value, variants.Failure) or other in plain.values())


def said(value):
    if not isinstance(value, torch.Tensor):
        return value
    return f"{tuple(value.shape)} {value.dtype}, norm {float(value.double().norm()):.5g}"


TEST = test_what_comes_out_is_right_or_what_upstream_gives


def so_far(name, statuses):
    """What comes out without the repairs that are not made there."""
    with contextlib.ExitStack() as stack:
        for patch in CHANGED:
            if statuses[patch] != "APPLIED":
                stack.enter_context(zoo_hooks.disabled(patch))
        return variants.seen("plain", name)


@pytest.mark.parametrize("name", NAMES)
def test_where_others_came_first_it_is_right_or_as_they_have_it(name, both):
    """Methods of all repaired classes were replaced by another library's before zoo-hooks came."""
    before, plain = (next(iter(both[1][when][name].values())) for when in ("before", "plain"))
    alike = [plain, next(iter(so_far(name, both[1]["statuses"]).values()))]
    known = bool(right(("hooked", name), {"logits": before}))
    assert known or any(variants.near(before, one, 0.0) for one in alike), (said(before), *map(said, alike))


def test_no_patch_fails_where_others_came_first(both):
    """They are made, or are not needed, or do not know the code."""
    assert not [patch for patch, status in both[1]["statuses"].items() if status == "FAILED"]


@pytest.mark.skipif(not find_spec("peft"), reason="peft is not part of this environment")
def test_every_option_of_lora_is_tried_or_does_not_add_what_modules_are_given():
    """One that a later peft has is red until it is in either list."""
    peft = import_module("peft")
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert known == set(variants.OPTIONS) | set().union(*BESIDE.values())


def test_every_patch_of_modules_is_among_them():
    """By the first of its models, in which there are modules that it has changed."""
    for some, changed in CHANGED.items():
        name = next(name for name in PATCHES[some] if name in MODELS)
        kinds = tuple(getattr(import_module(module), kind) for module, kind, _ in changed)
        assert any(isinstance(module, kinds) for module in variants.build(name).modules()), some
    assert zoo_hooks.installed() or "ZOO_HOOKS" in os.environ
