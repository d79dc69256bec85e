"""Repairs of datasets."""
