"""What must hold of a model of mlx-vlm that the trainers hand a mask of padding."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.models.cache import make_prompt_cache

import zoo_hooks
from zoo_hooks.patches.mlx_vlm import _tiny

LENGTH = 12
ONES = mx.ones((1, LENGTH), dtype=mx.int32)
SQUARE = mx.tril(mx.ones((LENGTH, LENGTH), dtype=mx.bool_))[None, None]


def largest(one, other):
    return abs(one - other).max().item()


def trainers():
    """Loss functions of mlx-vlm's trainers, where this release has them."""
    places = {
        "mlx_vlm.trainer.sft_trainer": "vision_language_loss_fn",
        "mlx_vlm.trainer.vlm.sft.trainer": "vision_language_loss_fn",
        "mlx_vlm.trainer.vlm.sft.runtime": "vlm_sft_loss",
    }
    return {
        path: name
        for path, name in places.items()
        if find_spec(path.rpartition(".")[0].rpartition(".")[0])
        and find_spec(path.rpartition(".")[0])
        and find_spec(path)
    }


class PaddingMask:
    """A subclass names the module of its patch, whose canary makes the model."""

    patch: ModuleType

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        """What the canary looks at, with its towers."""
        if not find_spec(cls.patch.PATCH.targets[0].rpartition(".")[0]):
            pytest.skip("this release has no such model")
        model = cls.patch._model()
        if "mask" not in inspect.signature(type(model).__call__).parameters:
            pytest.skip("this release's model takes no mask")
        return model

    @property
    def id(self):
        return self.patch.PATCH.id

    @property
    def applied(self):
        return zoo_hooks.report()[self.id].status.name == "APPLIED"

    @pytest.mark.parametrize("kind", [mx.int32, mx.bool_], ids=str)
    @pytest.mark.parametrize("keyword", [False, True])
    def test_the_last_token_moves_no_earlier_logit(self, model, kind, keyword):
        """Difference 0.0, and the logits are those without a mask; without the repair it is more than 0.1."""
        tokens = _tiny.prompt(LENGTH)
        other = mx.concatenate([tokens[:, :-1], tokens[:, -1:] + 1], axis=1)

        def logits(some, mask):
            if keyword:
                return model(input_ids=some, pixel_values=None, mask=mask).logits
            return model(some, None, mask).logits

        mask = ONES.astype(kind)
        assert largest(logits(tokens, mask)[:, :-1], logits(other, mask)[:, :-1]) == 0
        assert largest(logits(tokens, mask), logits(tokens, None)) < 1e-5
        if self.applied:
            with zoo_hooks.disabled(self.id):
                wrong = largest(logits(tokens, mask)[:, :-1], logits(other, mask)[:, :-1])
            print(f"the last token moves earlier logits by {wrong:.3g} without, 0 with the hooks")
            assert wrong > 0.1

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_a_padded_batch_is_each_row_alone(self, model, side):
        """Within 1e-5; without the repair it raises."""
        if side == "left" and not self.applied:
            pytest.skip("a release that leaves the mask out attends to padding before a text")
        lengths = (LENGTH, LENGTH - 2, LENGTH - 5)
        tokens, places = _tiny.prompt(LENGTH, 3), mx.arange(LENGTH)[None]
        mask = mx.concatenate([places < n if side == "right" else places >= LENGTH - n for n in lengths])
        batch = model(tokens, None, mask.astype(mx.int32)).logits
        errors = []
        for row, n in enumerate(lengths):
            part = slice(n) if side == "right" else slice(LENGTH - n, None)
            errors.append(
                largest(batch[row : row + 1, part], model(tokens[row : row + 1, part], None, None).logits)
            )
        print(f"rows of a batch padded on the {side}, against each alone: {errors}")
        assert max(errors) < 1e-5
        if self.applied:
            with zoo_hooks.disabled(self.id), pytest.raises(ValueError, match="broadcast"):
                mx.eval(model(tokens, None, mask.astype(mx.int32)).logits)

    @pytest.mark.parametrize("trainer", trainers())
    @pytest.mark.parametrize("rows", [1, 2])
    def test_the_trainers_loss_and_gradients_are_causal(self, model, trainer, rows):
        """Of one text and of two, of which one is padded, in mlx-vlm's own loss function."""
        tokens = _tiny.prompt(LENGTH, rows)
        mask = mx.concatenate([ONES, (mx.arange(LENGTH) < 9)[None]])[:rows].astype(mx.int32)
        batch = {"pixel_values": None, "input_ids": tokens, "attention_mask": mask}
        own = getattr(import_module(trainer), trainers()[trainer])
        kept = mask[:, 1:] if own.__name__ == "vlm_sft_loss" else mask[:, :-1]

        def theirs(some):
            found = own(some, batch)
            return found[0] if isinstance(found, tuple) else found

        def causal(some):
            losses = nn.losses.cross_entropy(some(tokens[:, :-1], None, None).logits, tokens[:, 1:])
            return (losses * kept).sum() / kept.sum()

        def both(loss):
            value, gradients = nn.value_and_grad(model, loss)(model)
            return value.item(), dict(tree_flatten(gradients))

        (right, expected), (found, gradients) = both(causal), both(theirs)
        large = {name: one for name, one in expected.items() if bool(abs(one).max() > 1e-6)}
        error = _tiny.error(large, gradients)
        print(f"{trainer}, {rows} rows: loss off by {abs(found - right):.2g}, gradients by {error:.2g}")
        assert found == pytest.approx(right, abs=1e-5)
        assert error < 1e-3
        if self.applied and rows == 1:
            with zoo_hooks.disabled(self.id):
                wrong = abs(both(theirs)[0] - right)
            print(f"without the hooks the loss is off by {wrong:.2g}")
            assert wrong > 1e-3

    @pytest.mark.parametrize("mask", [None, SQUARE, ONES[:, None, None]], ids=["none", "causal", "padding"])
    def test_other_masks_pass_through(self, model, mask):
        """They give what they gave, bit for bit."""
        if mask is not None and not takes_four_dimensions(model):
            pytest.skip("this model's positions are made of a mask of two dimensions")
        tokens = _tiny.prompt(LENGTH)
        right = model(tokens, None, mask).logits
        with zoo_hooks.disabled(self.id):
            assert mx.array_equal(model(tokens, None, mask).logits, right)

    def test_it_compiles(self, model):
        """The mask's content is never looked at, so ``mx.compile`` traces it."""
        backbone = model.language_model
        tokens, mask = _tiny.prompt(LENGTH, 2), mx.concatenate([ONES, ONES.at[:, 9:].add(-1)])
        if takes_four_dimensions(model):
            expected = backbone(tokens, mask=mask).logits
            compiled = mx.compile(lambda t, m: backbone(t, mask=m).logits)
            assert largest(compiled(tokens, mask), expected) < 1e-5


class TextMask(PaddingMask):
    """For a family that creates no mask for a text at all."""

    @pytest.mark.parametrize("cached", [False, True])
    def test_other_masks_pass_through(self, model, cached):
        """A causal mask does, bit for bit. A text without a mask gets the same logits as with this mask."""
        tokens, square = _tiny.prompt(LENGTH, 2), mx.broadcast_to(SQUARE, (2, 1, LENGTH, LENGTH))

        def logits(mask):
            return model(tokens, None, mask, cache=make_prompt_cache(model) if cached else None).logits

        right = logits(square)
        assert largest(logits(None), right) < 1e-5
        with zoo_hooks.disabled(self.id):
            assert mx.array_equal(logits(square), right)
            print(f"a text without a mask is off by {largest(logits(None), right):.3g} without the hooks")

    def test_an_image_keeps_its_own_mask(self, model):
        """Its patches attend to each other, with the trainers' mask as without one; padding is not used."""
        tokens, image = _tiny.prompt(LENGTH), mx.arange(16 * 32 * 3).reshape(1, 16, 32, 3) / 1536
        tokens[:, 2:6] = mx.array([91, 90, 90, 92])
        given = {"pixel_values": image, "image_grid_hw": mx.array([[1, 2]])}
        right = model(tokens, **given).logits
        assert largest(model(tokens, mask=ONES, **given).logits, right) < 1e-5
        padded = model(tokens, mask=(mx.arange(LENGTH) < 9)[None].astype(mx.int32), **given).logits
        assert largest(padded[:, :9], right[:, :9]) < 1e-5
        with zoo_hooks.disabled(self.id):
            assert mx.array_equal(model(tokens, **given).logits, right)
            assert largest(model(tokens, mask=ONES, **given).logits, right) > 0.1


def takes_four_dimensions(model):
    """Not those that make positions of it, on the host."""
    return not hasattr(model.language_model, "get_rope_index")
