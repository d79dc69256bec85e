"""Models of Gemma-4 generate with an assistant, whatever its constructor asks for."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.generation import utils

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.transformers import _tiny, gemma4_assistant_arguments

if not hasattr(transformers, "Gemma4AssistantConfig"):
    pytest.skip("this release has no assistants of Gemma-4", allow_module_level=True)

PATCH = "transformers/gemma4-assistant-arguments"
HOW = {"max_new_tokens": 12, "do_sample": False}


def affected():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def models():
    """Some layers of one share, and none of the other; 5.12 cannot crop a window that is full."""
    return _tiny.shared_model(sliding_window=32), _tiny.unshared_model(sliding_window=32)


def test_an_assistant_guesses_the_greedy_tokens():
    """For a model whose layers share K/V, and one whose do not."""
    for model in models():
        assisted = model.generate(_tiny.prompt(), assistant_model=_tiny.assistant(), **HOW)
        assert assisted.equal(model.generate(_tiny.prompt(), **HOW))


def test_sampling_with_an_assistant_is_repeatable():
    """The same seed gives the same tokens."""
    model, how = models()[0], HOW | {"do_sample": True, "assistant_model": _tiny.assistant()}
    torch.manual_seed(0)
    once = model.generate(_tiny.prompt(), **how)
    torch.manual_seed(0)
    assert model.generate(_tiny.prompt(), **how).equal(once)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_generating_warns_of_no_argument_that_the_user_did_not_give():
    """Upstream warns of the two when they come by name."""
    models()[0].generate(_tiny.prompt(), assistant_model=_tiny.assistant(), **HOW)


@pytest.mark.skipif(not affected(), reason="earlier constructors want a real model, later ones have defaults")
def test_who_hands_everything_over_is_obeyed():
    """By name and by position, in the order that the signature shows."""
    kind = utils.SinglePositionMultiTokenCandidateGenerator
    given = {
        "input_ids": None,
        "assistant_model": _tiny.assistant(),
        "target_model_input_embeddings": torch.nn.Embedding(2, 2),
        "generation_config": SimpleNamespace(max_length=7),
        "model_kwargs": {},
    }
    in_order = [given[name] for name in inspect.signature(kind).parameters if name in given]
    for made in (kind(**given), kind(*in_order)):
        assert made.assistant_model is given["assistant_model"]
        assert made.target_model_input_embeddings is given["target_model_input_embeddings"]
        assert made.main_model_max_length == 7


def test_the_symptom_is_back_while_it_is_disabled():
    """On an affected release; on the others nothing is changed."""
    model, mended = models()[0], affected()
    with zoo_hooks.disabled(PATCH):
        if mended:
            with pytest.raises(TypeError, match="'input_ids' and 'model_kwargs'"):
                model.generate(_tiny.prompt(), assistant_model=_tiny.assistant(), **HOW)
        else:
            assert model.generate(_tiny.prompt(), assistant_model=_tiny.assistant(), **HOW).shape[1] == 24


def test_what_has_been_repaired_is_fixed_for_the_probe():
    """By us, or by another tool."""
    assert gemma4_assistant_arguments.probe(utils) is Verdict.FIXED


def test_code_that_is_not_known_is_not_touched():
    """Where it is not for those two that the constructor refuses what ``generate`` hands over."""

    def choose(*_):
        return SinglePositionMultiTokenCandidateGenerator(assistant=None)  # noqa: F821 - the probe's

    class Generator:
        def __init__(self, assistant_model):
            pass

    module = SimpleNamespace(
        GenerationMixin=SimpleNamespace(_get_candidate_generator=choose),
        SinglePositionMultiTokenCandidateGenerator=Generator,
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'assistant'"):  # UNKNOWN to the engine
        gemma4_assistant_arguments.probe(module)
