"""Which models are repaired: those of releases with the bug, and nothing that only looks like them."""

from __future__ import annotations

import functools
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import NamedTuple
from unittest.mock import MagicMock, Mock

import mlx.core as mx
import pytest
from conftest import python, recorded
from hypothesis import given
from hypothesis import strategies as st

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.mlx_lm import _linked, _shared_kv, _tiny


class Family(NamedTuple):
    """A model whose layers share K/V, its classes upstream, and its patches."""

    name: str
    path: str
    backbone: str
    layer: str
    attention: str
    patch: str
    offset: str

    @property
    def kinds(self):
        return [getattr(import_module(self.path), name) for name in self[2:5]]

    @property
    def affected(self):
        return recorded(self.patch) == "AFFECTED"

    def model(self):
        return getattr(_tiny, self.name)()


FAMILIES = [
    Family(
        "mlx_lm_gemma3n",
        "mlx_lm.models.gemma3n",
        "LanguageModel",
        "Gemma3nDecoderLayer",
        "Gemma3nAttention",
        "mlx_lm/gemma3n-no-cache-shared-kv",
        "mlx_lm/gemma3n-shared-kv-offset",
    )
]
if find_spec("mlx_vlm"):
    FAMILIES += [
        Family(
            "gemma3n",
            "mlx_vlm.models.gemma3n.language",
            "Gemma3Model",
            "Gemma3nDecoderLayer",
            "Gemma3nAttention",
            "mlx_vlm/gemma3n-no-cache-shared-kv",
            "mlx_vlm/gemma3n-shared-kv-offset",
        ),
        Family(
            "gemma4",
            "mlx_vlm.models.gemma4.language",
            "Gemma4TextModel",
            "DecoderLayer",
            "Attention",
            "mlx_vlm/gemma4-no-cache-shared-kv",
            "mlx_vlm/gemma4-shared-kv-offset",
        ),
    ]
STATUS = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED"}
of_each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def no_cache_verdict(module, model, attention):
    return _shared_kv.no_cache_verdict(module, model, "Layer", attention)


PROBES = (no_cache_verdict, _shared_kv.offset_verdict)


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


def plain(self, x, mask=None, cache=None):
    return self.self_attn(x, mask, cache)


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
    vars(module).update(names, Layer=kind(plain))
    calls = [getattr(names.get(name), "__call__", None) for name in ("Model", "Attention")]  # noqa: B004
    for probe in PROBES:
        verdict = probe(module, "Model", "Attention")
        bug = isinstance(names.get("Model"), type) and isinstance(names.get("Attention"), type)
        bug = bug and calls == [affected, attention]
        assert (verdict is Verdict.AFFECTED) == bug


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


def foreign(call):
    """What other libraries put around a function: it names what it wraps."""

    @functools.wraps(call)
    def wrapper(self, *args, **kwargs):
        return call(self, *args, **kwargs)

    return wrapper


def test_wrappers_of_others_are_looked_through_but_not_those_of_a_layer():
    """As ``inspect.signature`` does. A layer's may be a checkpoint, outside of which nothing may be taken."""
    wrapped = {"Model": kind(foreign(foreign(affected))), "Attention": kind(foreign(attention))}
    for layer, expected in ((plain, Verdict.AFFECTED), (foreign(plain), Verdict.UNKNOWN)):
        module = SimpleNamespace(**wrapped, Layer=kind(layer))
        assert no_cache_verdict(module, "Model", "Attention") is expected
        assert _shared_kv.offset_verdict(module, "Model", "Attention") is Verdict.AFFECTED
    elsewhere = SimpleNamespace(**wrapped, Layer=kind(_tiny.checkpoint))
    assert no_cache_verdict(elsewhere, "Model", "Attention") is Verdict.UNKNOWN
    endless = foreign(affected)
    endless.__wrapped__ = endless
    module = SimpleNamespace(Model=kind(endless), Attention=kind(attention), Layer=kind(plain))
    assert {probe(module, "Model", "Attention") for probe in PROBES} == {Verdict.UNKNOWN}


@of_each_family
def test_wrappers_that_others_made_first_do_not_keep_a_repair_away(family):
    """On the real classes, in a child whose hooks come after them; the logits are the repaired ones."""
    code = f"""
        import functools, os, zoo_hooks
        from importlib import import_module
        module = import_module({family.path!r})
        for name in ({family.backbone!r}, {family.attention!r}):
            kind = getattr(module, name)
            def wrapper(self, *args, _call=kind.__call__, **kwargs):
                return _call(self, *args, **kwargs)
            kind.__call__ = functools.wraps(kind.__call__)(wrapper)
        os.environ["ZOO_HOOKS"] = "1"
        zoo_hooks.activate()
        from zoo_hooks.patches.mlx_lm import _shared_kv, _tiny
        for name in ({family.patch!r}, {family.offset!r}):
            print(zoo_hooks.report()[name].status.name)
        print(_shared_kv.no_cache_figure(_tiny.{family.name}()).healthy)
        print(_shared_kv.offset_figure(_tiny.{family.name}()).healthy)
    """
    statuses = [STATUS[recorded(patch)] for patch in (family.patch, family.offset)]
    assert python(code, ZOO_HOOKS="0").split() == [*statuses, "True", "True"]


@of_each_family
def test_late_hooks_leave_layers_that_are_checkpointed_already_alone(family):
    """K/V taken outside of the checkpoint would be constants: a right loss, and silently wrong gradients."""
    code = f"""
        import os, zoo_hooks
        from importlib import import_module
        from zoo_hooks.patches.mlx_lm import _tiny
        from zoo_hooks.patches.mlx_lm._linked import Held
        module, tokens = import_module({family.path!r}), _tiny.prompt(8)
        call = module.{family.layer}.__call__
        upstream = getattr(_tiny, {family.name!r})()
        import_module("mlx_lm.tuner.trainer").grad_checkpoint(upstream.layers[0])
        before = _tiny.kv_gradients(upstream, tokens)
        os.environ["ZOO_HOOKS"] = "1"
        zoo_hooks.activate()
        print(zoo_hooks.report()[{family.patch!r}].status.name)
        after = _tiny.kv_gradients(upstream, tokens)
        assert all((after[name] == before[name]).all() for name in before)  # as without us
        module.{family.layer}.__call__ = call
        zoo_hooks.activate()
        print(zoo_hooks.report()[{family.patch!r}].status.name)
    """
    statuses = ["UNKNOWN", "APPLIED"] if family.affected else ["NOT_NEEDED", "NOT_NEEDED"]
    assert python(code, ZOO_HOOKS="0").split() == statuses


@pytest.mark.skipif(not find_spec("mlx_vlm"), reason="mlx-vlm is not part of this environment")
def test_the_text_model_of_gemma4_is_native():
    """Where a release has it: its attention takes the K/V, though its model has no sink for them."""
    if find_spec("mlx_vlm.models.gemma4_text"):
        module = import_module("mlx_vlm.models.gemma4_text.language")
        classes = ("Gemma4TextModel", "DecoderLayer", "Attention")
        assert _shared_kv.no_cache_verdict(module, *classes) is Verdict.FIXED
        assert _shared_kv.offset_verdict(module, "Gemma4TextModel", "Attention") is Verdict.FIXED


def logits(model):
    return _tiny.logits(model, _tiny.prompt())


def backbone(model):
    return model.model if "model" in model else model


@of_each_family
def test_an_instance_that_is_native_is_left_alone(family):
    """A valid ``previous_kvs``; one of another length is none. A native release makes its own."""
    model, right = family.model(), logits(family.model())
    with zoo_hooks.disabled(family.patch):
        plain = logits(model)
    assert mx.array_equal(plain, right) != family.affected
    cases = ((list(range(6)), plain), (tuple(range(6)), plain), ([0], right), (None, right))
    for previous, expected in cases if family.affected else ():
        backbone(model).previous_kvs = previous
        assert mx.array_equal(logits(model), expected)


@of_each_family
def test_subclasses_that_call_their_parent_are_repaired(family):
    """Of the model, and of the layer as long as the call is upstream's."""
    right, model = logits(family.model()), family.model()

    class Model(family.kinds[0]):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    backbone(model).__class__ = Model
    for layer in model.layers:
        layer.__class__ = type("Layer", (type(layer),), {})
    assert mx.array_equal(logits(model), right)


@of_each_family
def test_a_layer_with_a_call_of_its_own_is_left_alone(family):
    """It need not know our arguments, nor give back what we would take apart."""
    model = family.model()

    class Layer(family.kinds[1]):
        def __call__(self, *args, **kwargs):
            result = super().__call__(*args, **kwargs)
            return 0.5 * result if isinstance(result, mx.array) else (0.5 * result[0], *result[1:])

    for layer in model.layers:
        layer.__class__ = Layer
    seen = logits(model)
    with zoo_hooks.disabled(family.patch):
        assert mx.array_equal(logits(model), seen)


@of_each_family
def test_calls_set_on_an_instance_change_nothing(family):
    """Python does not look there, and neither do we."""
    right, model = logits(family.model()), family.model()
    object.__setattr__(backbone(model), "__call__", Mock(side_effect=AssertionError))
    object.__setattr__(model.layers[0], "__call__", Mock(side_effect=AssertionError))
    assert mx.array_equal(logits(model), right)


@of_each_family
def test_markers_of_others_keep_their_offset(family):
    """What stands in for a cache, makes no masks and stays at offset 0 is not counted back."""
    model = family.model()
    marked = _tiny.logits(model, _tiny.prompt(), [_linked.Held() for _ in range(6)])
    assert mx.array_equal(marked, logits(model))


def test_a_cache_is_seen_as_what_it_is():
    """``isinstance`` and attributes are the cache's; only the offset is another, also of a batch."""
    from mlx_lm.models.cache import BatchKVCache, KVCache

    cache, batch = KVCache(), BatchKVCache([0, 1])
    for some in (cache, batch):
        some.update_and_fetch(mx.ones((2, 1, 3, 4)), mx.ones((2, 1, 3, 4)))
    seen = _linked.Unmoved(cache, cache.offset - 2)
    assert isinstance(seen, KVCache)
    assert (seen.offset, cache.offset) == (1, 3)
    assert mx.array_equal(seen.state[0], cache.state[0])
    assert not hasattr(seen, "bits")
    seen = _linked.Unmoved(batch, batch.offset - 2)
    assert isinstance(seen, BatchKVCache)
    assert (seen.offset.tolist(), batch.offset.tolist()) == ([1, 0], [3, 2])
    assert len(batch.state) > 2
    assert all(mx.array_equal(*pair) for pair in zip(seen.state, batch.state[:2], strict=True))


@of_each_family
def test_a_forward_inside_another_has_its_own_kv(family):
    """MLX builds no graphs in threads, but a layer may run the same model on other tokens midway."""
    model, inner = family.model(), (_tiny.prompt() + 9) % 60
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


@of_each_family
def test_repairing_twice_is_repairing_once(family):
    """``activate()`` and a reload leave one wrapper, and undoing leaves upstream's own functions."""
    statuses = [STATUS[recorded(patch)] for patch in (family.patch, family.offset)]
    python(f"""
        import importlib, zoo_hooks
        module = importlib.import_module({family.path!r})
        def depths():
            found = []
            for name in {family[2:5]!r}:
                call, depth = getattr(module, name).__call__, 0
                while hasattr(call, "__wrapped__"):
                    call, depth = call.__wrapped__, depth + 1
                found.append(depth)
            return found
        no_cache, offset = (status == "APPLIED" for status in {statuses!r})
        expected = [int(no_cache), int(no_cache), int(offset)]
        first = module.{family.backbone}.__call__
        zoo_hooks.activate(); zoo_hooks.activate()
        assert module.{family.backbone}.__call__ is first and depths() == expected
        importlib.reload(module)
        assert module.{family.backbone}.__call__ is not first and depths() == expected
        report = zoo_hooks.report()
        names = ({family.patch!r}, {family.offset!r})
        assert [report[name].status.name for name in names] == {statuses!r}
        for name, status in zip(names, {statuses!r}):
            if status == "APPLIED":
                zoo_hooks.revert(name)
        assert depths() == [0, 0, 0]
    """)


@pytest.mark.parametrize("family", FAMILIES[1:], ids=lambda family: family.name)
def test_mlx_vlms_own_checkpointing_may_be_switched_on_more_than_once(family):
    """By whichever of its functions; the gradients stay those of eager mode."""
    python(f"""
        from importlib import import_module
        from importlib.util import find_spec
        from zoo_hooks.patches.mlx_lm import _tiny
        model, tokens = _tiny.{family.name}(), _tiny.prompt(8)
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


@of_each_family
def test_recorded_verdicts_are_those_of_this_release(family):
    """What the probes say before a repair, in a child that only reports."""
    for patch in (family.patch, family.offset):
        said = python(
            f"import {family.path}, zoo_hooks; print(zoo_hooks.report()[{patch!r}].status.name)",
            ZOO_HOOKS="dry-run",
        ).strip()
        assert said == {"AFFECTED": "DRY_RUN", "FIXED": "NOT_NEEDED"}[recorded(patch)]
