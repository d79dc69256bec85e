"""Repairs of transformers."""
