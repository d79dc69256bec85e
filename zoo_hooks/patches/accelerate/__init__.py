"""Repairs of accelerate."""
