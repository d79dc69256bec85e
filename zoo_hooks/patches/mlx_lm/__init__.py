"""Patches of mlx-lm, and what they share with those of mlx-vlm."""
