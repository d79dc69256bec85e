"""A padding mask keeps Gemma-4 in mlx-vlm causal, alone and in batches, and in the trainer's loss."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec

import mlx.core as mx
import pytest
from conftest import python
from mlx import nn
from mlx_shared_kv import WITHIN, oracle, trainers

import zoo_hooks
from zoo_hooks.patches.mlx_lm import _tiny

PATCH = "mlx_vlm/gemma4-padding-mask"
LENGTH = 12  # the window is 8
ONES = mx.ones((1, LENGTH), dtype=mx.int32)
NEW = "mlx_vlm.trainer.vlm.sft.trainer"
TRAINER = import_module(NEW if find_spec("mlx_vlm.trainer").submodule_search_locations
                        and find_spec("mlx_vlm.trainer.vlm") else "mlx_vlm.trainer.sft_trainer")  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return _tiny.gemma4_with_towers()


def applied():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def largest(one, other):
    return abs(one - other).max().item()


@pytest.mark.parametrize("kind", [mx.int32, mx.bool_, mx.float32], ids=str)
@pytest.mark.parametrize("keyword", [False, True])
def test_the_last_token_moves_no_earlier_logit(model, kind, keyword):
    """Difference 0.0, and the logits are those without a mask; without the repair it is more than 1."""
    tokens = _tiny.prompt(LENGTH)
    other = mx.concatenate([tokens[:, :-1], tokens[:, -1:] + 1], axis=1)
    mask = ONES.astype(kind)

    def logits(some):
        given = model(input_ids=some, mask=mask) if keyword else model(some, None, mask)
        return given.logits

    assert largest(logits(tokens)[:, :-1], logits(other)[:, :-1]) == 0
    assert largest(logits(tokens), model(tokens).logits) < 1e-5
    if applied() and kind == mx.bool_:
        with zoo_hooks.disabled(PATCH):
            wrong = largest(logits(tokens)[:, :-1], logits(other)[:, :-1])
        print(f"the last token moves earlier logits by {wrong:.3g} without, 0 with the hooks")
        assert wrong > 1


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [5, LENGTH])
def test_a_padded_batch_is_each_row_alone(model, side, length):
    """Within 1e-5, inside and beyond the window; without the repair it raises."""
    if side == "left" and not applied():
        pytest.skip("a release that leaves the mask out attends to padding before a text")
    lengths = (length, length - 2, length - 4)
    tokens = _tiny.prompt(length, 3)
    places = mx.arange(length)[None]
    mask = mx.concatenate([places < n if side == "right" else places >= length - n for n in lengths])
    batch = model(tokens, None, mask.astype(mx.int32)).logits
    errors = []
    for row, n in enumerate(lengths):
        part = slice(n) if side == "right" else slice(length - n, None)
        alone = model(tokens[row : row + 1, part]).logits
        errors.append(largest(batch[row : row + 1, part], alone))
    print(f"rows of a batch padded on the {side}, against each alone: {errors}")
    assert max(errors) < 1e-5
    assert not mx.isnan(batch).any()
    if applied():
        with zoo_hooks.disabled(PATCH), pytest.raises(ValueError, match="broadcast"):
            mx.eval(model(tokens, None, mask.astype(mx.int32)).logits)


def test_logits_of_padded_rows_are_the_oracles():
    """Those of transformers in eager attention, with the same weights and mask: within 1e-4, either side."""
    model = _tiny.gemma4_with_towers()
    _tiny.filled(model.language_model)  # whose weights go by their names
    right = tuple((1,) * n + (0,) * (LENGTH - n) for n in (LENGTH, 9, 5))
    left = tuple((0,) * (LENGTH - n) + (1,) * n for n in (LENGTH, 9, 5))
    expected, _ = oracle("gemma4", LENGTH, right + left)
    mask = mx.array(right + left)
    gaps = abs(model(_tiny.prompt(LENGTH, 6), None, mask).logits - expected).max(axis=-1) * mask
    found = [gaps[:3].max().item(), gaps[3:].max().item()]
    print(f"logits of three padded rows against transformers', padded right, left: {found}")
    assert found[0] < WITHIN
    assert (found[1] < WITHIN) == applied()  # a release that leaves the mask out attends to padding
    single = abs(model(_tiny.prompt(LENGTH), None, mask[:1]).logits - expected[:1]).max().item()
    assert single < WITHIN
    if applied():
        with zoo_hooks.disabled(PATCH):
            wrong = abs(model(_tiny.prompt(LENGTH), None, mask[:1]).logits - expected[:1]).max().item()
        print(f"logits of one row against transformers': {wrong:.2g} without, {single:.2g} with the hooks")
        assert wrong > 1


@pytest.mark.parametrize("rows", [1, 2])
def test_the_trainers_loss_is_the_causal_one(model, rows):
    """mlx-vlm's own loss function, of one text and of two of which one is padded."""
    tokens = _tiny.prompt(LENGTH, rows)
    mask = mx.concatenate([ONES, (mx.arange(LENGTH) < 9)[None]])[:rows].astype(mx.int32)
    batch = {"pixel_values": None, "input_ids": tokens, "attention_mask": mask}
    kept = mask[:, :-1]
    losses = nn.losses.cross_entropy(model(tokens[:, :-1]).logits, tokens[:, 1:]) * kept
    causal = (losses.sum() / kept.sum()).item()

    def loss():
        found = TRAINER.vision_language_loss_fn(model, batch)
        return (found[0] if isinstance(found, tuple) else found).item()

    assert loss() == pytest.approx(causal, abs=1e-5)
    if applied() and rows == 1:
        with zoo_hooks.disabled(PATCH):
            print(f"the trainer's loss: {loss():.4f} without, {causal:.4f} with the hooks")
            assert abs(loss() - causal) > 0.005


def own_batch(trainer, rows):
    """A batch of unequal texts, as that trainer makes it; its loss function; which predictions count."""
    lengths = (LENGTH, 9, 5)[:rows]
    items = [{"input_ids": _tiny.prompt(LENGTH, 3)[n, :length]} for n, length in enumerate(lengths)]
    if trainer == "train":
        batch = next(TRAINER.iterate_batches(items, rows, 64))
        loss = TRAINER.vision_language_loss_fn
        kept = batch["attention_mask"][:, :-1]  # also that of the first padding
    else:
        runtime = import_module("mlx_vlm.trainer.vlm.sft.runtime")
        batch = next(iter(runtime.iterate_vlm_batches(items, rows, 64)))
        loss, kept = runtime.vlm_sft_loss, batch["attention_mask"][:, 1:]
    assert batch["attention_mask"].sum(axis=1).tolist() == sorted(lengths, reverse=trainer == "train")
    return batch, loss, kept.sum(axis=1).tolist()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("trainer", trainers())
def test_a_batch_that_a_trainer_makes_has_the_loss_and_the_gradients_of_its_rows(trainer, rows, checkpointed):
    """mlx-vlm's own batches, padded to 32, and its own loss: those of each row alone, weighted by tokens."""
    model, (batch, own, counts) = _tiny.gemma4_with_towers(), own_batch(trainer, rows)
    if checkpointed:
        _tiny.checkpoint(model.language_model.model.layers)
    tokens = batch["input_ids"]

    def theirs(some):
        found = own(some, {"pixel_values": None, **batch})
        return found[0] if isinstance(found, tuple) else found

    def alone(some):
        losses = [
            nn.losses.cross_entropy(some(tokens[n, None, :count]).logits, tokens[n, None, 1 : count + 1])
            for n, count in enumerate(counts)
        ]
        return mx.concatenate(losses, axis=1).mean()

    causal, expected = nn.value_and_grad(model, alone)(model)
    expected = {name: one for name, one in flat(expected) if bool(abs(one).max() > 1e-6)}

    def errors():
        loss, found = nn.value_and_grad(model, theirs)(model)
        return abs(loss - causal).item(), _tiny.error(expected, dict(flat(found)))

    right = errors()
    print(f"a batch of {trainer}'s, {rows} rows: loss off by {right[0]:.2g}, gradients by {right[1]:.2g}")
    assert right[0] < 1e-5
    assert right[1] < 1e-4
    if applied():
        with zoo_hooks.disabled(PATCH):
            if rows > 1:
                with pytest.raises(ValueError, match="broadcast"):
                    errors()
            else:
                wrong = errors()
                print(f"without the hooks: loss off by {wrong[0]:.2g}, gradients by {wrong[1]:.2g}")
                assert wrong[0] > 0.005
                assert wrong[1] > 0.1


SQUARE = mx.tril(mx.ones((LENGTH, LENGTH), dtype=mx.bool_))
OTHERS = {
    "None": None,
    "causal": "causal",
    "two dimensions": SQUARE,
    "four dimensions": SQUARE[None, None],
    "four dimensions, of padding": ONES[:, None, None],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_masks_pass_through(model, name):
    """They give what they gave, bit for bit; None, and the name of a mask, too."""
    tokens, mask = _tiny.prompt(LENGTH), OTHERS[name]
    right = model(tokens, None, mask).logits
    assert mask is not None or mx.array_equal(right, model(tokens).logits)
    with zoo_hooks.disabled(PATCH) if applied() else nullcontext():
        assert mx.array_equal(model(tokens, None, mask).logits, right)


def test_as_many_rows_as_tokens_are_taken_for_padding(model):
    """A square mask of two dimensions cannot be told from it then; with four dimensions it passes."""
    tokens = _tiny.prompt(LENGTH, LENGTH)
    padded = model(tokens, None, SQUARE.astype(mx.int32)).logits
    for row in (5, LENGTH - 1):
        alone = model(tokens[row : row + 1, : row + 1]).logits
        assert largest(padded[row : row + 1, : row + 1], alone) < 1e-5
    passed = model(tokens, None, SQUARE[None, None]).logits
    with zoo_hooks.disabled(PATCH) if applied() else nullcontext():
        assert mx.array_equal(model(tokens, None, SQUARE[None, None]).logits, passed)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_under_padding_are_finite_and_those_of_the_rows(checkpointed):
    """Of two rows, one padded, also where their layers are checkpointed."""
    model, tokens = _tiny.gemma4_with_towers(), _tiny.prompt(6, 2)
    if checkpointed:
        _tiny.checkpoint(model.language_model.model.layers)
    mask = mx.array([[1] * 6, [1, 1, 1, 1, 0, 0]])

    def mean(some):
        losses = nn.losses.cross_entropy(some(tokens[:, :-1], None, mask[:, :-1]).logits, tokens[:, 1:])
        return (losses * mask[:, 1:]).sum() / 8

    def alone(some):
        rows = [(tokens[:1], 5), (tokens[1:, :4], 3)]
        return sum(
            nn.losses.cross_entropy(some(row[:, :-1]).logits, row[:, 1:]).sum() for row, _ in rows
        ) / 8  # fmt: skip

    found, expected = (dict(flat(nn.value_and_grad(model, loss)(model)[1])) for loss in (mean, alone))
    right = {name: value for name, value in expected.items() if bool(abs(value).max() > 1e-6)}
    error = _tiny.error(right, found)
    print(f"gradients of a padded batch, checkpointed {checkpointed}: {error:.2g} from those of its rows")
    assert error < 1e-4


def flat(tree):
    from mlx.utils import tree_flatten

    return tree_flatten(tree)


def test_a_forward_with_a_cache_leaves_the_mask_out(model):
    """A prompt that fills a cache, with a mask of ones, gives the logits without one."""
    tokens = _tiny.prompt(LENGTH)
    expected = model(tokens).logits
    assert largest(model(tokens, None, ONES, model.language_model.make_cache()).logits, expected) < 1e-5


def test_it_compiles(model):
    """The mask's content is never looked at, so ``mx.compile`` traces it."""
    tokens, mask = _tiny.prompt(LENGTH, 2), mx.concatenate([ONES, ONES.at[:, 9:].add(-1)])
    expected = model(tokens, None, mask).logits
    assert largest(mx.compile(lambda t, m: model(t, None, m).logits)(tokens, mask), expected) < 1e-5


def test_gemma4_unified_is_not_touched():
    """Its class is its own: no wrapper of ours, and logits to the last bit, with a mask and without."""
    if not find_spec("mlx_vlm.models.gemma4_unified"):
        pytest.skip("this release has no gemma4_unified")
    unified = import_module("mlx_vlm.models.gemma4_unified.gemma4_unified").Model
    assert not hasattr(unified.__call__, "__wrapped__")
    code = """
        import hashlib, numpy
        import mlx.core as mx
        import mlx_vlm.models.gemma4
        from mlx_vlm.models import gemma4_unified
        from zoo_hooks.patches.mlx_lm import _tiny
        text = gemma4_unified.TextConfig(**_tiny.GEMMA4)
        vision = gemma4_unified.VisionConfig(
            patch_size=2, model_patch_size=6, mm_embed_dim=16, mm_posemb_size=16, output_proj_dims=16
        )
        config = gemma4_unified.ModelConfig(text_config=text, vision_config=vision, audio_config=None)
        model, tokens = _tiny.filled(gemma4_unified.Model(config)), _tiny.prompt()
        for mask in (None, mx.ones((1, 12), dtype=mx.int32)):
            logits = numpy.array(model(tokens, None, mask).logits)
            assert numpy.isfinite(logits).all()
            print(hashlib.sha256(logits.tobytes()).hexdigest())
    """
    with_hooks = python(code)
    assert with_hooks == python(code, ZOO_HOOKS="0")
    assert len(with_hooks.split()) == 2
