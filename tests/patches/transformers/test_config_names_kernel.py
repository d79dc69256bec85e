"""A config file cannot make a model run the code of a repository."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, LlamaConfig

import zoo_hooks
from zoo_hooks.patches.transformers._refused import Refused

PATCH = "transformers/config-names-kernel"


def from_file(folder):
    return LlamaConfig.from_json_file(folder / "config.json")


READERS = [AutoConfig.from_pretrained, LlamaConfig.from_pretrained, from_file]
KEYS = ["_attn_implementation_internal", "_attn_implementation"]


def written(folder, **said):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **said}))
    return folder


@pytest.fixture
def affected():
    """Elsewhere upstream decides, which from 5.3.0 on asks the caller to allow a kernel."""
    if zoo_hooks.report()[PATCH].status.name != "APPLIED":
        pytest.skip("upstream's own check stands")


def test_without_the_repair_an_affected_release_takes_the_kernel(measured):
    """One there, none with the repair or elsewhere."""
    row = measured(PATCH)
    assert row["with"] == 0
    assert row["without"] == (1 if row["status"] == "APPLIED" else 0)


@pytest.mark.usefixtures("affected")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("read", READERS)
def test_a_kernel_in_the_file_is_refused(tmp_path, key, read):
    """The error names the file, the key and the repository; also where the caller asks for another."""
    with pytest.raises(Refused, match=f"{key}: 'some/body'.*CVE-2026-4372"):
        read(written(tmp_path, **{key: "some/body"}))


@pytest.mark.usefixtures("affected")
def test_one_in_a_part_is_refused(tmp_path):
    """As in the config of a text model within a larger one."""
    with pytest.raises(Refused, match="some/body"):
        AutoConfig.from_pretrained(written(tmp_path, text_config={KEYS[0]: "some/body"}))


@pytest.mark.parametrize("said", [{}, {KEYS[1]: "eager"}, {KEYS[1]: None}, {"_name_or_path": "some/body"}])
def test_good_files_are_read(tmp_path, said):
    """Names of what transformers has itself, and paths under other keys."""
    assert AutoConfig.from_pretrained(written(tmp_path, **said)).model_type == "llama"


def test_a_kernel_that_the_caller_asks_for_is_taken(tmp_path):
    """It is his to choose."""
    config = AutoConfig.from_pretrained(written(tmp_path), attn_implementation="some/body")
    assert config._attn_implementation == "some/body"
    assert LlamaConfig(attn_implementation="some/body")._attn_implementation == "some/body"


def test_what_is_saved_is_read_again(tmp_path):
    """Also from a config for which the caller chose a kernel."""
    LlamaConfig(attn_implementation="some/body").save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "llama"
