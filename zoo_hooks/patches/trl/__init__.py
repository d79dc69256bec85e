"""Repairs of trl."""
