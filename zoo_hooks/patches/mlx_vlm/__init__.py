"""Patches of mlx-vlm, which share their helpers with those of mlx-lm."""

from zoo_hooks.patches.mlx_lm import _afm7, _linked, _shared_kv, _tiny

__all__ = ["_afm7", "_linked", "_shared_kv", "_tiny"]
