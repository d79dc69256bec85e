"""What ``transformers.modeling_attn_mask_utils`` held up to 5.23.0: masks that are added to scores.

Their shape is [batch, 1, queries, keys]. Keys that are not seen have the lowest number of the dtype.
"""

from __future__ import annotations

from typing import Any

import torch

PADDING, FULL = 2, 4
"""Dimensions of [batch, keys] and [batch, 1, queries, keys]."""
Shape = Any
"""Batch and number of queries, in a tuple, list or torch.Size."""


class AttentionMaskConverter:
    """Makes masks: causal ones, perhaps with a window of that many earlier keys, or of padding only."""

    def __init__(self, is_causal: bool, sliding_window: int | None = None) -> None:  # noqa: FBT001 - its signature
        if sliding_window is not None and sliding_window <= 0:
            message = f"sliding_window must be positive, not {sliding_window}"
            raise ValueError(message)
        self.is_causal, self.sliding_window = is_causal, sliding_window

    def to_causal_4d(
        self,
        batch_size: int,
        query_length: int,
        key_value_length: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor | None:
        """Make a causal mask; None where a single query sees all."""
        if not self.is_causal:
            message = "to_causal_4d is for causal masks; this converter has is_causal=False"
            raise ValueError(message)
        if query_length == 1 and self.sliding_window is None:
            return None
        past = key_value_length - query_length
        return self._make_causal_mask((batch_size, query_length), dtype, device, past, self.sliding_window)

    def to_4d(
        self,
        attention_mask_2d: torch.Tensor,
        query_length: int,
        dtype: torch.dtype,
        key_value_length: int | None = None,
    ) -> torch.Tensor:
        """Make a mask of one that has 1 for each key that is seen, [batch, keys]."""
        padding = self._expand_mask(attention_mask_2d, dtype, query_length)
        if not self.is_causal:
            if self.sliding_window is not None:
                message = "a sliding window is for causal masks only"
                raise NotImplementedError(message)
            return padding
        if query_length == 1 and self.sliding_window is None:
            return padding
        if key_value_length is None:
            message = "a causal mask needs key_value_length"
            raise ValueError(message)
        device = attention_mask_2d.device
        causal = self.to_causal_4d(len(attention_mask_2d), query_length, key_value_length, dtype, device)
        assert causal is not None
        return causal.masked_fill(padding.bool(), torch.finfo(dtype).min)

    @staticmethod
    def _make_causal_mask(
        input_ids_shape: Shape,
        dtype: torch.dtype,
        device: torch.device | str,
        past_key_values_length: int = 0,
        sliding_window: int | None = None,
    ) -> torch.Tensor:
        batch, length = input_ids_shape
        keys = torch.arange(past_key_values_length + length, device=device)
        queries = keys[past_key_values_length:, None]
        seen = keys <= queries
        if sliding_window is not None:
            seen = seen & (keys >= queries - sliding_window)
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
        return mask[None, None].expand(batch, 1, *mask.shape)

    @staticmethod
    def _expand_mask(mask: torch.Tensor, dtype: torch.dtype, tgt_len: int | None = None) -> torch.Tensor:
        batch, keys = mask.shape
        inverted = 1.0 - mask[:, None, None, :].expand(batch, 1, tgt_len or keys, keys).to(dtype)
        return inverted.masked_fill(inverted.bool(), torch.finfo(dtype).min)

    @staticmethod
    def _unmask_unattended(expanded_mask: torch.Tensor, min_dtype: float) -> torch.Tensor:
        """Let queries that see nothing see all: some kernels of SDPA give NaN for them."""
        if expanded_mask.dtype == torch.bool:
            message = "a mask of floats is expected, not of bools"
            raise ValueError(message)
        return expanded_mask.mul(~torch.all(expanded_mask == min_dtype, dim=-1, keepdim=True))

    @staticmethod
    def _ignore_causal_mask_sdpa(
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        past_key_values_length: int,
        sliding_window: int | None = None,
        is_training: bool = False,  # noqa: FBT001, FBT002 - its signature
    ) -> bool:
        """Tell whether SDPA's own ``is_causal`` can stand for the mask: no padding, and all in the window."""
        queries = inputs_embeds.shape[1]
        keys = queries + past_key_values_length
        if (queries not in (1, keys)) or (sliding_window is not None and keys >= sliding_window):
            return False
        if attention_mask is None:  # what is traced would have is_causal for good
            return is_training or not _is_tracing(inputs_embeds)
        return (
            attention_mask.dim() != FULL
            and not _is_tracing(inputs_embeds)
            and bool(torch.all(attention_mask == 1))
        )


def _prepare_4d_causal_attention_mask(
    attention_mask: torch.Tensor | None,
    input_shape: Shape,
    inputs_embeds: torch.Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> torch.Tensor | None:
    """Make a causal mask; what is given has 1 for each key that is seen, in either shape."""
    keys, dtype = input_shape[-1] + past_key_values_length, inputs_embeds.dtype
    converter = AttentionMaskConverter(is_causal=True, sliding_window=sliding_window)
    if attention_mask is not None and attention_mask.dim() == PADDING:
        return converter.to_4d(attention_mask, input_shape[-1], dtype, keys)
    if attention_mask is not None and attention_mask.dim() == FULL:
        expected = (input_shape[0], 1, input_shape[1], keys)
        if tuple(attention_mask.shape) != expected:
            message = f"the mask has the shape {tuple(attention_mask.shape)}, not {expected}"
            raise ValueError(message)
        inverted = 1.0 - attention_mask
        return inverted.masked_fill(inverted.bool(), torch.finfo(dtype).min)
    return converter.to_causal_4d(input_shape[0], input_shape[-1], keys, dtype, inputs_embeds.device)


def _prepare_4d_causal_attention_mask_for_sdpa(
    attention_mask: torch.Tensor | None,
    input_shape: Shape,
    inputs_embeds: torch.Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> torch.Tensor | None:
    """Make the same, or None where SDPA's own ``is_causal`` can stand for it."""
    converter = AttentionMaskConverter(is_causal=True, sliding_window=sliding_window)
    known = (attention_mask, inputs_embeds, past_key_values_length, sliding_window)
    if converter._ignore_causal_mask_sdpa(*known):  # noqa: SLF001
        return None
    keys, dtype = input_shape[-1] + past_key_values_length, inputs_embeds.dtype
    if attention_mask is None:
        return converter.to_causal_4d(input_shape[0], input_shape[-1], keys, dtype, inputs_embeds.device)
    mask = attention_mask
    if mask.dim() != FULL:
        mask = converter.to_4d(mask, input_shape[-1], dtype, keys)
    if not _is_tracing(inputs_embeds) and mask.device.type in ("cuda", "xpu"):
        mask = converter._unmask_unattended(mask, torch.finfo(dtype).min)  # noqa: SLF001
    return mask


def _prepare_4d_attention_mask(
    mask: torch.Tensor, dtype: torch.dtype, tgt_len: int | None = None
) -> torch.Tensor:
    """Make a mask of padding only."""
    return AttentionMaskConverter._expand_mask(mask, dtype, tgt_len)  # noqa: SLF001


def _prepare_4d_attention_mask_for_sdpa(
    mask: torch.Tensor, dtype: torch.dtype, tgt_len: int | None = None
) -> torch.Tensor | None:
    """Make the same, or None where nothing is padded."""
    if not _is_tracing(mask) and torch.all(mask == 1):
        return None
    return AttentionMaskConverter._expand_mask(mask, dtype, tgt_len)  # noqa: SLF001


def _create_4d_causal_attention_mask(
    input_shape: Shape,
    dtype: torch.dtype,
    device: torch.device | str,
    past_key_values_length: int = 0,
    sliding_window: int | None = None,
) -> torch.Tensor | None:
    """Make a causal mask without padding."""
    keys = past_key_values_length + input_shape[-1]
    return AttentionMaskConverter(is_causal=True, sliding_window=sliding_window).to_causal_4d(
        input_shape[0], input_shape[-1], keys, dtype, device
    )


def _is_tracing(tensor: torch.Tensor) -> bool:
    from transformers.utils.import_utils import is_tracing

    return bool(is_tracing(tensor))
