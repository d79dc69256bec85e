"""Which models are repaired: those of releases with the bug, and nothing that only looks like them."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, Mock

import mlx.core as mx
import pytest
from conftest import python, recorded
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models import gemma3n

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.mlx_lm import _linked, _shared_kv, _tiny

PATCH = "mlx-lm-gemma3n-no-cache-shared-kv"
OFFSET = "mlx-lm-gemma3n-shared-kv-offset"
PROBES = (_shared_kv.no_cache_verdict, _shared_kv.offset_verdict)


class Odd:
    """A class whose ``__call__`` cannot be read, each time for another reason."""

    def __init__(self, error):
        self.error = error

    @property
    def __signature__(self):
        raise self.error

    __wrapped__ = __code__ = __signature__

    def __call__(self, *_, **__):
        raise AssertionError


def affected(self, inputs, cache=None):
    return self.layer_idx_to_cache_idx


def attention(self, x, mask=None, cache=None):
    return self.is_kv_shared_layer and cache.offset


def native_by_sink(self, inputs, cache=None, shared_kv_sink=None):
    return self.layer_idx_to_cache_idx


def native_by_argument(self, x, cache=None, shared_kv=None, offset=None):
    return self.is_kv_shared_layer


def kind(call):
    return type("Kind", (), {"__call__": call})


CALLS = st.sampled_from(
    [
        affected,
        attention,
        native_by_sink,
        native_by_argument,
        lambda *_, **__: None,
        functools.partial(affected),
        Odd(TypeError()),
        Odd(ValueError()),
        Odd(AttributeError()),
        Mock(),
        MagicMock(),
        len,
        None,
        3,
    ]
)
THINGS = st.one_of(
    CALLS.map(kind),
    CALLS.map(kind).map(lambda parent: type("Sub", (parent,), {})),
    CALLS,
    st.sampled_from([object, type, int, Mock, MagicMock, SimpleNamespace(), Odd(ValueError())]),
)


@given(st.dictionaries(st.sampled_from(["Model", "Attention"]), THINGS))
def test_the_gate_answers_whatever_stands_there(names):
    """Never an exception; AFFECTED only where both classes have the code with the bug."""
    module = ModuleType("upstream")
    vars(module).update(names)
    calls = [getattr(names.get(name), "__call__", None) for name in ("Model", "Attention")]  # noqa: B004
    for probe in PROBES:
        verdict = probe(module, "Model", "Attention")
        bug = isinstance(names.get("Model"), type) and isinstance(names.get("Attention"), type)
        bug = bug and calls == [affected, attention]
        assert (verdict is Verdict.AFFECTED) == bug
        if not bug:
            assert verdict in {Verdict.FIXED, Verdict.UNKNOWN}


@pytest.mark.parametrize("model", [native_by_sink, affected])
def test_either_signature_tells_that_a_release_is_native(model):
    """The sink on the model, or the argument of the attention; the text model has only the latter."""
    parts = [native_by_argument] if model is affected else [native_by_argument, attention]
    for part in parts:
        module = SimpleNamespace(Model=kind(model), Attention=kind(part))
        assert {probe(module, "Model", "Attention") for probe in PROBES} == {Verdict.FIXED}


MODELS = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.one_of(st.lists(st.builds(kind(attention)), max_size=6), st.none(), st.just(Mock())),
        "first_kv_shared_layer_idx": st.one_of(st.integers(-2, 8), st.none(), st.just(Mock())),
        "layer_idx_to_cache_idx": st.one_of(
            st.lists(st.one_of(st.integers(-2, 6), st.none()), max_size=7), st.none(), st.just(Mock())
        ),
        "previous_kvs": st.one_of(st.lists(st.integers(), max_size=6), st.just(()), st.just(Mock())),
    },
)


@given(MODELS, st.booleans())
def test_an_instance_is_linked_only_where_everything_fits(attributes, mocked):
    """Whatever its attributes are: no exception, and otherwise the instance itself comes back."""
    model = Mock(spec=list(attributes)) if mocked else SimpleNamespace()
    for name, value in attributes.items():
        setattr(model, name, value)
    seen = _linked.linked(model, kind(attention).__call__)
    layers, sources = attributes.get("layers"), attributes.get("layer_idx_to_cache_idx")
    first, previous = attributes.get("first_kv_shared_layer_idx"), attributes.get("previous_kvs")
    fits = isinstance(layers, list) and isinstance(sources, list) and isinstance(first, int)
    fits = fits and len(layers) == len(sources) and 0 < first < len(layers)
    fits = fits and all(isinstance(n, int) and 0 <= n < first for n in sources[first:])
    native = (
        isinstance(previous, (list, tuple)) and layers is not None and fits and len(previous) == len(layers)
    )
    assert (seen is not model) == (fits and not native)


def logits(model):
    return _tiny.logits(model, _tiny.prompt())


def test_an_instance_that_is_native_is_left_alone():
    """A valid ``previous_kvs``; one of another length is none."""
    model, right = _tiny.mlx_lm_gemma3n(), logits(_tiny.mlx_lm_gemma3n())
    with zoo_hooks.disabled(PATCH):
        plain = logits(model)
    assert not mx.array_equal(plain, right)
    for previous, expected in (
        (list(range(6)), plain),
        (tuple(range(6)), plain),
        ([0], right),
        (None, right),
    ):
        model.previous_kvs = previous
        assert mx.array_equal(logits(model), expected)


def test_subclasses_that_call_their_parent_are_repaired():
    """Of the model, and of the layer as long as the call is upstream's."""
    right, model = logits(_tiny.mlx_lm_gemma3n()), _tiny.mlx_lm_gemma3n()

    class Model(gemma3n.LanguageModel):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    model.__class__ = Model
    for layer in model.layers:
        layer.__class__ = type("Layer", (type(layer),), {})
    assert mx.array_equal(logits(model), right)


def test_a_layer_with_a_call_of_its_own_is_left_alone():
    """It need not know our arguments, nor give back what we would take apart."""
    model = _tiny.mlx_lm_gemma3n()

    class Layer(gemma3n.Gemma3nDecoderLayer):
        def __call__(self, x, mask=None, cache=None, per_layer_input=None, **more):
            return 0.5 * super().__call__(x, mask, cache, per_layer_input, **more)

    for layer in model.layers:
        layer.__class__ = Layer
    seen = logits(model)
    with zoo_hooks.disabled(PATCH):
        assert mx.array_equal(logits(model), seen)


def test_calls_set_on_an_instance_change_nothing():
    """Python does not look there, and neither do we."""
    right, model = logits(_tiny.mlx_lm_gemma3n()), _tiny.mlx_lm_gemma3n()
    object.__setattr__(model, "__call__", Mock(side_effect=AssertionError))
    object.__setattr__(model.layers[0], "__call__", Mock(side_effect=AssertionError))
    assert mx.array_equal(logits(model), right)


def test_markers_of_others_keep_their_offset():
    """What stands in for a cache, makes no masks and stays at offset 0 is not counted back."""
    model = _tiny.mlx_lm_gemma3n()
    assert (
        abs(_tiny.logits(model, _tiny.prompt(), [_linked.Held() for _ in range(6)]) - logits(model)).max()
        == 0
    )


def test_a_cache_is_seen_as_what_it_is():
    """``isinstance`` and attributes are the cache's; only the offset is another, also of a batch."""
    from mlx_lm.models.cache import KVCache

    cache = KVCache()
    cache.update_and_fetch(mx.ones((1, 1, 3, 4)), mx.ones((1, 1, 3, 4)))
    seen = _linked.Unmoved(cache, cache.offset - 2)
    assert isinstance(seen, KVCache)
    assert (seen.offset, cache.offset) == (1, 3)
    assert mx.array_equal(seen.state[0], cache.state[0])
    assert not hasattr(seen, "bits")


def test_a_forward_inside_another_has_its_own_kv():
    """MLX builds no graphs in threads, but a layer may run the same model on other tokens midway."""
    model, inner = _tiny.mlx_lm_gemma3n(), (_tiny.prompt() + 9) % 60
    expected, other, seen = logits(model), _tiny.logits(model, inner), []
    mlp = type(model.layers[3].mlp)

    class Nested(mlp):
        def __call__(self, x):
            self.__class__ = mlp
            seen.append(_tiny.logits(model, inner))
            return self(x)

    model.layers[3].mlp.__class__ = Nested
    assert mx.array_equal(logits(model), expected)
    assert mx.array_equal(seen[0], other)


def test_repairing_twice_is_repairing_once():
    """``activate()`` and a reload leave one wrapper, and undoing leaves upstream's own functions."""
    python(f"""
        import importlib, zoo_hooks
        from mlx_lm.models import gemma3n
        first = gemma3n.LanguageModel.__call__
        zoo_hooks.activate(); zoo_hooks.activate()
        assert gemma3n.LanguageModel.__call__ is first and not hasattr(first.__wrapped__, "__wrapped__")
        importlib.reload(gemma3n)
        report = zoo_hooks.report()
        assert report[{PATCH!r}].status.name == "APPLIED"
        assert report[{OFFSET!r}].status.name in ("APPLIED", "NOT_NEEDED")
        assert not hasattr(gemma3n.LanguageModel.__call__.__wrapped__, "__wrapped__")
        for name in ({PATCH!r}, {OFFSET!r}):
            zoo_hooks.revert(name)
        for kind in (gemma3n.LanguageModel, gemma3n.Gemma3nDecoderLayer, gemma3n.Gemma3nAttention):
            assert not hasattr(kind.__call__, "__wrapped__")
    """)


@pytest.mark.skipif(not find_spec("mlx_vlm"), reason="mlx-vlm is not part of this environment")
def test_mlx_vlms_own_checkpointing_may_be_switched_on_more_than_once():
    """By whichever of its functions; the gradients stay those of eager mode."""
    python("""
        from importlib import import_module
        from importlib.util import find_spec
        from zoo_hooks.patches.mlx_lm import _tiny
        model, tokens = _tiny.gemma3n(), _tiny.prompt(8)
        expected = _tiny.kv_gradients(model, tokens)
        names = ("mlx_vlm.trainer.utils", "mlx_vlm.trainer.core", "mlx_vlm.trainer.common.utils")
        names = [name for name in names if find_spec(name.rpartition(".")[0]) and find_spec(name)]
        switches = [getattr(import_module(name), "grad_checkpoint", None) for name in names]
        switches = [switch for switch in switches if switch]
        assert switches
        for switch in switches:
            switch(model.layers[0])
            assert _tiny.error(expected, _tiny.kv_gradients(model, tokens)) < 1e-4
    """)


def test_recorded_verdicts_are_those_of_this_release():
    """What the probes say before a repair, in a child that only reports."""
    for patch in (PATCH, OFFSET):
        said = python(
            f"import mlx_lm.models.gemma3n, zoo_hooks; print(zoo_hooks.report()[{patch!r}].status.name)",
            ZOO_HOOKS="dry-run",
        ).strip()
        assert said == {"AFFECTED": "DRY_RUN", "FIXED": "NOT_NEEDED"}[recorded(patch)]
