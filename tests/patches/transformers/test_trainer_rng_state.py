"""A checkpoint's random state file restores random states, and does nothing else."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import recorded
from transformers import Trainer, TrainingArguments, trainer

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit, _tiny
from zoo_hooks.patches.transformers.trainer_rng_state import _Touches

PATCH = "transformers/trainer-rng-state"


@pytest.fixture
def forced(monkeypatch):
    """What people set so that old checkpoints load; it makes torch unpickle freely."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def load(folder, rank=0, world=1):
    """Call the method as a trainer does."""
    arguments = SimpleNamespace(world_size=world, process_index=rank, parallel_mode=None, local_rank=0)
    Trainer._load_rng_state(SimpleNamespace(args=arguments), str(folder))


def states():
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}  # noqa: NPY002


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(("name", "world"), [("rng_state.pth", 1), ("rng_state_0.pth", 2)])
def test_a_foreign_pickle_is_refused(tmp_path, name, world):
    """The error says what was not allowed, and nothing of the file has run."""
    torch.save(_Touches(tmp_path / "created"), tmp_path / name)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load(tmp_path, world=world)
    assert not (tmp_path / "created").exists()


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(("name", "world"), [("rng_state.pth", 1), ("rng_state_0.pth", 2)])
def test_good_states_are_restored(tmp_path, name, world):
    """Python, numpy and torch go on with the numbers that they would have drawn."""
    torch.save(states(), tmp_path / name)
    expected = draw()
    load(tmp_path, world=world)
    assert draw() == expected
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_good_states_are_restored_by_torchs_own_default(tmp_path):
    """Also up to 4.46, whose Trainer does not tell torch from 2.6 on of what a state of NumPy is made."""
    torch.save(states(), tmp_path / "rng_state.pth")
    expected = draw()
    load(tmp_path)
    assert draw() == expected


def test_what_the_user_has_allowed_stays_allowed(tmp_path):
    """Where upstream's method itself takes nothing away."""
    reconstruct = np.zeros(1).__reduce__()[0]
    torch.save(states(), tmp_path / "rng_state.pth")
    with torch.serialization.safe_globals([reconstruct]):
        load(tmp_path)
        kept = reconstruct in torch.serialization.get_safe_globals()
    assert kept != hasattr(trainer, "safe_globals")
    assert reconstruct not in torch.serialization.get_safe_globals()


def test_a_checkpoint_without_the_file_is_as_ever(tmp_path):
    """No file, or no checkpoint at all, restores nothing and raises nothing."""
    torch.manual_seed(1)
    expected = torch.get_rng_state()
    load(tmp_path)
    Trainer._load_rng_state(SimpleNamespace(args=SimpleNamespace(world_size=1)), None)
    assert torch.get_rng_state().equal(expected)


@pytest.mark.usefixtures("forced")
def test_no_other_load_is_touched(tmp_path, monkeypatch):
    """Who loads a file of his own freely still can, also while a trainer's states are being restored."""
    free = torch.load
    seen = []

    def setstate(state):
        torch.save(_Touches(tmp_path / "during"), tmp_path / "mine.pth")
        torch.load(tmp_path / "mine.pth")
        seen.append(torch.load)

    torch.save(states(), tmp_path / "rng_state.pth")
    monkeypatch.setattr(random, "setstate", setstate)
    load(tmp_path)
    assert seen == [free]
    assert (tmp_path / "during").exists()
    torch.save(_Touches(tmp_path / "after"), tmp_path / "mine.pth")
    torch.load(tmp_path / "mine.pth")
    assert (tmp_path / "after").exists()


def test_a_training_run_resumes_with_the_same_numbers(tmp_path):
    """Four steps in one go and two plus two from the checkpoint end with equal weights."""
    data = [{"input_ids": _tiny.prompt()[0] + i, "labels": _tiny.prompt()[0] + i} for i in range(8)]

    def train(folder: Path, resume: str | None = None):
        model = _four_bit.text_model(attention_dropout=0.2).train()
        arguments = TrainingArguments(
            str(folder), max_steps=4, save_steps=2, per_device_train_batch_size=2, report_to=[], seed=5
        )
        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.train(resume_from_checkpoint=resume)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole = train(tmp_path / "whole")
    resumed = train(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.equal(whole, resumed)


def test_without_the_repair_the_file_does_what_it_says(measured):
    """Good states are restored with and without; the other file creates one without, and none with."""
    row = measured(PATCH)
    assert row["without"] == (1 if recorded(PATCH) == "AFFECTED" else 0)
    assert row["with"] == 0


def test_a_mended_release_is_left_untouched():
    """Where the method asks for weights only, it is the upstream's own."""
    applied = zoo_hooks.report()[PATCH].status.name == "APPLIED"
    assert hasattr(Trainer._load_rng_state, "__wrapped__") == applied
