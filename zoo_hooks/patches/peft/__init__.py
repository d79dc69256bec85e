"""Repairs of peft."""
