"""Repairs of multiprocess."""
