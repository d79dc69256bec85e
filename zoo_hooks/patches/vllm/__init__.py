"""Repairs of vllm."""
