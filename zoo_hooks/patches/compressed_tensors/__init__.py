"""Repairs of compressed-tensors."""
