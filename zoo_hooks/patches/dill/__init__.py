"""Repairs of dill."""
