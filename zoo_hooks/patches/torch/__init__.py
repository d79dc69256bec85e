"""Repairs of torch."""
