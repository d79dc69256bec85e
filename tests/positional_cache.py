"""What holds for the patches of ``_positional_cache``, on the real transformers."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any, ClassVar

import pytest
import torch
from conftest import recorded

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.patches.transformers import _positional_cache

REENTRANT = {"use_reentrant": True}
WAYS = [REENTRANT, _positional_cache.WAY]


class Checkpointed:
    """Subclasses give the id, the model, and where its layers are."""

    patch: ClassVar[str]

    def make(self) -> Any:
        raise NotImplementedError

    def layers(self, model: Any) -> Any:
        raise NotImplementedError

    @property
    def affected(self) -> bool:
        return recorded(self.patch) == "AFFECTED"

    def step(self, how: Any = None, model: Any = None) -> Any:
        return _positional_cache.step(self.make, how, model)

    def test_the_figure_is_right_with_the_repair(self):
        """Without the hooks it raises."""
        assert catalogue.get(self.patch).canary().healthy

    @pytest.mark.parametrize("how", WAYS, ids=["reentrant", "not"])
    def test_gradients_are_those_without_checkpointing(self, how):
        """With both kinds."""
        assert torch.allclose(self.step(how)[1], self.step()[1], atol=1e-6)

    @pytest.mark.parametrize("how", WAYS, ids=["reentrant", "not"])
    def test_the_symptom_is_back_while_it_is_disabled(self, how):
        """It is upstream's; where the release has no bug, gradients are right without the repair too."""
        with zoo_hooks.disabled(self.patch):
            if self.affected:
                with pytest.raises(RuntimeError, match=r"size of tensor a|different metadata"):
                    self.step(how)
            else:
                assert torch.allclose(self.step(how)[1], self.step()[1], atol=1e-6)

    @pytest.mark.parametrize("more", [{}, {"use_cache": False}], ids=["cache", "none"])
    def test_without_checkpointing_nothing_changes(self, more):
        """Logits of eval, and the tokens that are generated."""
        model, inputs = self.make()
        ids = torch.arange(3, 11)[None]

        def run() -> Any:
            with torch.no_grad():
                tokens = model.generate(ids, **inputs, **more, max_new_tokens=6, do_sample=False)
                return model(ids, **inputs, **more).logits, tokens

        here = run()
        with zoo_hooks.disabled(self.patch):
            there = run()
        assert all(one.equal(other) for one, other in zip(here, there, strict=True))

    @pytest.mark.parametrize("how", WAYS, ids=["reentrant", "not"])
    def test_generate_keeps_its_cache_in_train_mode(self, how):
        """Nothing is computed again there, so checkpointing is no reason to take the cache away."""
        model, inputs = self.make()
        ids = torch.arange(3, 11)[None]
        tokens = {**inputs, "max_new_tokens": 6, "do_sample": False}
        expected = model.generate(ids, **tokens)  # in eval mode
        for part in model.train().modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        model.gradient_checkpointing_enable(how)
        assert model.generate(ids, **tokens).equal(expected)

    def test_the_layer_takes_its_cache_by_position_and_by_keyword(self):
        """Both reach the attention, and an argument given twice is refused as before."""
        layer = self.layers(self.make()[0])[0]
        place = _positional_cache._place(layer)
        if place is None:
            pytest.skip("this release's layer has no cache")
        seen = []
        layer.forward = lambda *args, **kwargs: seen.append((args, kwargs))
        name = [*inspect.signature(type(layer).forward).parameters][1:][place]
        cache = object()
        layer(*[None] * place, cache)
        layer(*[None] * place, **{name: cache})
        assert [cache in (*args, *kwargs.values()) for args, kwargs in seen] == [True, True]
        del layer.forward
        with pytest.raises(TypeError, match="multiple values"):
            layer(*[None] * place, cache, **{name: cache})

    def test_copies_pickles_and_subclasses_train(self):
        """The wrapper belongs to the class."""
        model, _ = self.make()
        expected = self.step()[1]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.allclose(self.step(WAYS[1], other)[1], expected, atol=1e-6)
        for layer in self.layers(model):
            layer.__class__ = type("Mine", (type(layer),), {})
        assert torch.allclose(self.step(WAYS[1], model)[1], expected, atol=1e-6)

    def test_hooks_of_a_layer_run(self):
        """Of the user, before and after."""
        model, _ = self.make()
        seen = []
        layer = self.layers(model)[0]
        layer.register_forward_pre_hook(lambda *_: seen.append("before"))
        layer.register_forward_hook(lambda *_: seen.append("after"))
        assert torch.allclose(self.step(WAYS[1], model)[1], self.step()[1], atol=1e-6)
        assert {"before", "after"} == {*seen}

    def test_torch_compile_gives_the_same_logits(self):
        """In eval."""
        model, inputs = self.make()
        ids = torch.arange(3, 11)[None]
        whole = torch.compile(model, backend="eager")
        with torch.no_grad():
            assert torch.allclose(whole(ids, **inputs).logits, model(ids, **inputs).logits, atol=1e-6)
