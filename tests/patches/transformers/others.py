"""Shared by the tests of patches for code of others: what it warns of, one process group, and remote code."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch

import zoo_hooks
from zoo_hooks.patches.transformers import _foreign

torch.set_num_threads(1)


def affected(patch):
    return zoo_hooks.report()[patch].status.name == "APPLIED"


def future_warnings(run):
    """How many FutureWarnings a call gives, each counted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return sum(issubclass(each.category, FutureWarning) for each in caught)


def tokens(model, **how):
    """Eight greedy tokens, without what upstream warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _foreign.generate(model, **how)


def wrong(model, **how):
    """How many of eight tokens are not those of a plain Llama without a cache."""
    return int((tokens(model, **how) != tokens(_foreign.llama(), use_cache=False)).sum())


@contextlib.contextmanager
def one_process():
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Load a class from a folder, as from_pretrained does it for code that comes with a checkpoint."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))

    def load(source, name):
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        (folder / "modeling_own.py").write_text(source)
        return dynamic_module_utils.get_class_from_dynamic_module(f"modeling_own.{name}", str(folder))

    return load
