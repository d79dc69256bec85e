"""Repairs of triton."""
