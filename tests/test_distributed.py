"""The comparison of a job's processes: what differs is named, what does not matter is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_hooks import distributed

SAME = {"zoo-hooks": "0.1.0", "transformers": "5.5.0", "transformers/gemma4-mlp-fp16": "applied"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        (
            {"transformers/gemma4-mlp-fp16": "skipped"},
            ["rank 1 has transformers/gemma4-mlp-fp16 skipped, not applied"],
        ),
        ({"transformers": "5.5.4", "zoo-hooks": "0.2.0"},
         ["rank 1 has transformers 5.5.4, not 5.5.0 and zoo-hooks 0.2.0, not 0.1.0"]),
        ({"transformers/wandb-broken": "not needed"}, []),
    ],
)  # fmt: skip
def test_each_process_that_is_unlike_most_is_named_with_what_is_unlike(change, said):
    """A patch that only one has met, for a module that only it has imported, is no difference."""
    states = {"rank 0": SAME, "rank 1": SAME | change, "rank 2": SAME}
    assert distributed.differences(states) == said


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=6))
def test_there_is_a_difference_just_where_two_say_another_thing_of_the_same(states):
    """Whatever the processes say."""
    named = {f"rank {number}": state for number, state in enumerate(states)}
    values = {subject: {state[subject] for state in states if subject in state} for subject in "abc"}
    assert bool(distributed.differences(named)) == any(len(seen) > 1 for seen in values.values())


def test_without_a_job_there_is_nothing_to_compare(zoo):
    """One clear error."""
    code = """
        try:
            zoo_hooks.distributed.check()
        except ValueError as error:
            print(error)
    """
    assert (
        zoo.run(code) == "neither torch.distributed nor Ray is initialised, so there is nothing to compare\n"
    )
