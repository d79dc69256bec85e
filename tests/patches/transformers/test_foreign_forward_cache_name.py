"""Models of others that take past_key_values get the cache, and stay what they are."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import warnings

import pytest
import torch
import transformers
from conftest import recorded
from others import affected, future_warnings, remote, tokens, wrong  # noqa: F401 - a fixture
from torch._dynamo.testing import CompileCounter
from transformers.generation.utils import GenerationMixin
from transformers.models.llama.modeling_llama import LlamaModel

import zoo_hooks
from zoo_hooks.changes import Changes
from zoo_hooks.patches.transformers import _cache_name, _foreign, _tiny, foreign_forward_cache_name

PATCH = "transformers/foreign-forward-cache-name"
Dropping = _foreign.dropping()
NEW = _cache_name.taken(GenerationMixin.prepare_inputs_for_generation)
"""As this release hands it on."""


class Handing(transformers.LlamaForCausalLM):
    """Hands everything on, and counts the calls with a cache."""

    seen = 0

    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        """Docstring of its own."""
        self.seen += past_key_values is not None
        return super().forward(input_ids, past_key_values=past_key_values, **kwargs)


class Below(Handing):
    """Overrides it once more."""

    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        self.below = getattr(self, "below", 0) + (past_key_values is not None)
        return super().forward(input_ids, past_key_values=past_key_values, **kwargs)


class Mixin:
    """Brings a forward from outside of transformers."""

    forward = inspect.unwrap(Dropping.forward)


class Mixed(Mixin, transformers.LlamaForCausalLM):
    """Has its forward from a class that is no model."""


class Own(transformers.LlamaForCausalLM):
    """Knows only old names in generation too."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **_):
        known = {"attention_mask": attention_mask, "position_ids": position_ids}
        return super().forward(input_ids, past_key_values=past_key_values, use_cache=True, **known)

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, **_):
        start = past_key_values.get_seq_length()
        return {
            "input_ids": input_ids[:, start:],
            "position_ids": torch.arange(start, input_ids.shape[1])[None],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
        }


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("kind", [Dropping, Handing, Below, Mixed], ids=lambda kind: kind.__name__)
def test_its_tokens_are_right(kind, cache):
    """Those without a cache, with one that grows and with one that does not."""
    how = {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
    assert wrong(_foreign.llama(kind), **how) == 0


def test_it_sees_the_cache_in_each_step():
    """And so does the class that it is derived from."""
    model = _foreign.llama(Below)
    assert wrong(model) == 0
    assert model.seen == model.below == 8


def test_the_symptom_is_back_while_it_is_disabled():
    """For classes that were made before and within; on releases without the bug nothing changes."""
    mended = affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        for kind in (Dropping, _foreign.dropping()):
            assert (wrong(_foreign.llama(kind)) > 0) == mended
        model = _foreign.llama(Handing)
        tokens(model)
        assert model.seen == (0 if mended else 8)
    assert wrong(_foreign.llama(Dropping)) == 0


def test_assistants_and_beams():
    """Tokens are those of a plain model."""
    model = _foreign.llama(Dropping)
    assert wrong(model, assistant_model=_foreign.llama(Dropping)) == 0
    expected = tokens(_foreign.llama(), num_beams=3)
    assert tokens(model, num_beams=3).equal(expected)


def test_a_part_of_a_model_of_transformers():
    """A base model of others, in a model that hands it what it hands its own."""

    class Base(LlamaModel):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **_):
            known = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": True}
            return super().forward(input_ids, past_key_values=past_key_values, **known)

    model = _foreign.llama()
    base = _foreign._tiny._seeded(Base, model.config)
    base.load_state_dict(model.model.state_dict())
    model.model = base
    assert wrong(model) == 0


def test_code_that_comes_with_a_checkpoint(remote):  # noqa: F811
    """Its class is seen when its module is executed."""
    kind = remote("from typing import Any\n" + inspect.getsource(_foreign.dropping), "dropping")()
    assert kind.__module__ != Dropping.__module__
    assert wrong(_foreign.llama(kind)) == 0


def test_a_cache_is_given_to_generate_by_its_old_name():
    """A class that knows only old names takes it; while it is disabled, upstream says that none does."""
    how = {"past_key_values": transformers.DynamicCache()}
    assert wrong(_foreign.llama(Own), **how) == 0
    assert how["past_key_values"].get_seq_length() == 19
    mended = affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        if mended:
            with pytest.raises(ValueError, match=r"not used by the model: \['cache'\]"):
                tokens(_foreign.llama(Own), past_key_values=transformers.DynamicCache())
        else:
            assert wrong(_foreign.llama(Own), past_key_values=transformers.DynamicCache()) == 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_callers_are_obeyed_by_name_and_position():
    """What comes by the old name, the new one or by position is the same; both at once are upstream's."""
    model = _foreign.llama(Dropping)
    ids, more = _tiny.prompt(), _tiny.prompt(1)
    expected = _foreign.llama()(torch.cat([ids, more], 1)).logits[:, -1]

    def cache():
        return model(ids, use_cache=True).past_key_values

    for given, named in (
        [(None, None, cache()), {}],
        [(), {"past_key_values": cache()}],
        [(), {NEW: cache()}],
    ):
        assert torch.allclose(model(more, *given, **named).logits[:, -1], expected, atol=1e-4)
    handing, both = _foreign.llama(Handing), cache()
    if affected(PATCH):  # upstream's own rule: the new name counts, with a warning
        seen = handing(more, past_key_values=cache(), cache=both).past_key_values
        assert seen is both


def test_it_gets_no_warning_that_it_would_not_get_without():
    """Upstream warns of the old name in what the class hands on, with the repair and without."""
    model = _foreign.llama(Handing)
    with_repair = future_warnings(lambda: _foreign.generate(model))
    with zoo_hooks.disabled(PATCH):
        without = future_warnings(lambda: _foreign.generate(model))
    assert with_repair <= without


def test_its_function_stays_what_people_ask_it_for():
    """Signature, name, docstring, source; models can be copied and pickled."""
    assert list(inspect.signature(Handing.forward).parameters)[1:] == [
        "input_ids",
        "past_key_values",
        "kwargs",
    ]
    assert Handing.forward.__qualname__ == "Handing.forward"
    assert Handing.forward.__doc__ == "Docstring of its own."
    assert "self.seen +=" in inspect.getsource(Handing.forward)
    model = _foreign.llama(Handing)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is Handing
        assert wrong(other) == 0


def test_classes_that_need_nothing_are_left_alone():
    """Those of transformers, those that take the new name, and those that hand on what they do not name."""

    class New(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, past_key_values=None, cache=None, **kwargs):
            return super().forward(input_ids, **{NEW: cache or past_key_values}, **kwargs)

    class Passing(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    for kind in (
        New,
        Passing,
        transformers.LlamaForCausalLM,
        transformers.LlamaModel,
        transformers.BertModel,
    ):
        assert not hasattr(kind.forward, "zoo_hooks_switch")
    assert wrong(_foreign.llama(New)) == wrong(_foreign.llama(Passing)) == 0


def test_a_class_that_was_decorated_is_seen_through():
    """As long as its decorator says what it wraps."""

    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Decorated(transformers.LlamaForCausalLM):
        forward = decorated(inspect.unwrap(Dropping.forward))

    assert wrong(_foreign.llama(Decorated)) == 0
    Decorated.forward = decorated(Decorated.forward)  # and once more, by another library
    assert wrong(_foreign.llama(Decorated)) == 0


def test_a_class_that_looks_into_its_keyword_arguments_is_told_of(caplog):
    """What it would hand on by the old name would warn in each step."""

    def make():
        class Looking(transformers.LlamaForCausalLM):
            def forward(self, *args, **kwargs):
                self.first = kwargs.get("past_key_values") is None
                return super().forward(*args, **kwargs)

        return Looking

    with caplog.at_level("INFO", "zoo_hooks"):
        assert wrong(_foreign.llama(make())) == 0
        make()
    said = [record.message for record in caplog.records if "Looking.forward" in record.message]
    assert len(said) == affected(PATCH)
    assert all("kwargs.get('cache')" in words for words in said)


def test_only_who_looks_its_own_arguments_up_is_told_of():
    """In each way in which that is written; outputs have the name too, and may be given it."""

    def by_get(self, **kwargs):
        return kwargs.get("past_key_values")

    def by_key(self, *args, use_cache=None, **more):
        return args, use_cache, more["past_key_values"]

    def by_in(self, hidden, **kwargs):
        return "past_key_values" in kwargs

    def by_pop_within(self, **kwargs):
        return [kwargs.pop("past_key_values", None) for _ in self]

    def reading(self, **kwargs):
        output = self.model(**kwargs)
        return transformers.modeling_outputs.CausalLMOutputWithPast(
            logits=output.logits, past_key_values=getattr(output, "past_key_values", None)
        )

    def setting(self, past, **kwargs):
        kwargs["past_key_values"] = past
        return self.model(**kwargs)

    def knowing(self, **kwargs):
        return kwargs.get("cache", kwargs.get("past_key_values"))

    looking = [by_get, by_key, by_in, by_pop_within]
    assert all(map(_cache_name.finds_old, looking))
    assert not any(map(_cache_name.finds_old, [reading, setting, knowing, Handing.forward, len]))


def test_a_mamba_takes_cache_params():
    """The other old name: each step continues from the state."""

    class OwnMamba(transformers.MambaForCausalLM):  # up to 5.23.0 upstream goes by the name
        seen = 0

        def forward(self, input_ids=None, cache_params=None, **kwargs):
            self.seen += cache_params is not None
            return super().forward(input_ids, cache_params=cache_params, **kwargs)

    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=4)
    model = _foreign._tiny._seeded(OwnMamba, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _foreign.generate(_foreign._tiny._seeded(transformers.MambaForCausalLM, config))
        assert _foreign.generate(model).equal(expected)
    assert model.seen >= 7


@pytest.mark.skipif(not affected(PATCH), reason="nothing is repaired on this release")
def test_classes_that_are_there_already_are_repaired():
    """As in a notebook; what is undone is idle, and upstream's places are as they were."""
    before = vars(transformers.PreTrainedModel)["__init_subclass__"], GenerationMixin._validate_model_kwargs
    with zoo_hooks.disabled(PATCH):
        early = _foreign.dropping()
        assert not hasattr(early.forward, "zoo_hooks_switch")
        upstream = (
            vars(transformers.PreTrainedModel)["__init_subclass__"],
            GenerationMixin._validate_model_kwargs,
        )
        changes = Changes()
        foreign_forward_cache_name.repair(None, changes)
        assert wrong(_foreign.llama(early)) == 0
        changes.undo()
        assert wrong(_foreign.llama(early)) > 0
        after = (
            vars(transformers.PreTrainedModel)["__init_subclass__"],
            GenerationMixin._validate_model_kwargs,
        )
        assert after == upstream
    assert before == (
        vars(transformers.PreTrainedModel)["__init_subclass__"], GenerationMixin._validate_model_kwargs
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_compile_makes_one_graph_of_it():
    """Of its forward, called as generate calls it."""
    torch._dynamo.reset()
    graphs, model, ids = CompileCounter(), _foreign.llama(Dropping), _tiny.prompt()
    cache = transformers.StaticCache(config=model.config, max_cache_len=32)
    expected = _foreign.llama()(ids).logits
    whole = torch.compile(model, fullgraph=True, backend=graphs)
    logits = whole(ids, **{NEW: cache}, use_cache=True).logits
    assert torch.allclose(logits, expected, atol=1e-4)
    assert cache.get_seq_length() == 12
    assert graphs.frame_count == 1


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_it_is_exported_and_traced():
    """Programs give the logits of eager."""
    model, ids = _foreign.llama(Dropping).requires_grad_(requires_grad=False), _tiny.prompt()
    expected = model(ids, use_cache=False).logits
    program = torch.export.export(model, (ids,), {"use_cache": False}).module()
    assert torch.equal(program(ids, use_cache=False).logits, expected)
    if recorded(PATCH) != "AFFECTED":
        return  # 5.5.0 cannot trace its own masks
    traced = torch.jit.trace(lambda ids: model(ids, use_cache=False).logits, ids, check_trace=False)
    assert torch.allclose(traced(ids), expected, atol=1e-5)
