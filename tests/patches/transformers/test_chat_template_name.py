"""Chat templates are written into the folder that is saved to, and nowhere else."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from zoo_hooks.patches.transformers import _tokenizer_config

PATCH = "transformers/chat-template-name"
FOUL = ["../../escaped", "/tmp/escaped", "sub/escaped"]


def tokenizer(folder, **templates):
    some = PreTrainedTokenizerFast.from_pretrained(_tokenizer_config.saved(folder / "it", ["<unk>", "a"]))
    some.chat_template = {"default": "x", **templates}
    return some


def names(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.jinja"))


def test_without_the_repair_an_affected_release_writes_outside(measured):
    """One file there, none with the repair or elsewhere."""
    row = measured(PATCH)
    assert row["with"] == 0
    assert row["without"] == (1 if row["status"] == "APPLIED" else 0)


@pytest.mark.parametrize("name", FOUL)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    """By an error that shows it; nothing is written outside."""
    some = tokenizer(tmp_path, **{name: "foul"})
    with pytest.raises(ValueError, match="Invalid chat template name"):
        some.save_pretrained(tmp_path / "deep" / "save")
    assert not [one for one in names(tmp_path) if "escaped" in one]


def test_good_names_are_saved_and_loaded(tmp_path):
    """Those with dots, spaces and letters of all kinds too."""
    good = {"default": "x", "tools": "a", "tool use v1.2": "b", "..dots": "c", "naïve": "d"}
    some = tokenizer(tmp_path, **good)
    some.save_pretrained(tmp_path / "save")
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "save").chat_template == good


def test_within_the_config_every_name_is_kept(tmp_path):
    """No file is written there, so none is refused."""
    some = tokenizer(tmp_path, **{"../x": "y"})
    some.save_pretrained(tmp_path / "save", save_jinja_files=False)
    assert names(tmp_path / "save") == []


def test_a_processor_refuses_too(tmp_path):
    """Its templates are written by a method of its own."""

    class Processor(ProcessorMixin):
        attributes = []  # noqa: RUF012 - as upstream has it

        def to_dict(self, *_, **__):
            return {}

    some = Processor(chat_template={"default": "x", "../../escaped": "foul"})
    with pytest.raises(ValueError, match="Invalid chat template name"):
        some.save_pretrained(tmp_path / "deep" / "save")
    assert not [one for one in names(tmp_path) if "escaped" in one]
    some.chat_template = {"default": "x", "tools": "y"}
    some.save_pretrained(tmp_path / "good")
    assert len(names(tmp_path / "good")) == 2
