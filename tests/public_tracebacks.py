# ruff: noqa: E501 - lines as they were told
"""Errors that people have reported in public: where, the frames and the error as told, and whose they are.

None: the words are those of a known bug, but it is raised elsewhere, or something else is wrong.
"""

PUBLIC = [
    (
        "https://github.com/zai-org/GLM-Image/issues/3",
        """
  File "/usr/local/lib/python3.12/dist-packages/peft/peft_model.py", line 37, in <module>
ImportError: cannot import name 'HybridCache' from 'transformers' (/usr/local/lib/python3.12/dist-packages/transformers/__init__.py)
""",
        "peft/hybrid-cache-import",
    ),
    (
        "https://github.com/huggingface/peft/issues/3333",
        r"""
File "...\.venv-cu128\lib\site-packages\peft\auto.py", line 32, in <module>

File "...\.venv-cu128\lib\site-packages\peft\peft_model.py", line 37, in <module>

ImportError: cannot import name 'HybridCache' from 'transformers'
""",
        "peft/hybrid-cache-import",
    ),
    (
        "https://github.com/huggingface/transformers/issues/44351",
        """
Traceback (most recent call last):
  File "<stdin>", line 1, in <module>
ImportError: cannot import name 'HybridCache' from 'transformers' (/opt/conda/lib/python3.10/site-packages/transformers/__init__.py)
""",
        None,
    ),
    (
        "https://github.com/huggingface/trl/issues/3257",
        """
[rank2]:   File "/mnt/grpo/workflow.py", line 81, in run_grpo
[rank2]:   File "/opt/conda/lib/python3.11/site-packages/trl/trainer/grpo_trainer.py", line 406, in __init__
[rank2]:   File "/opt/conda/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1931, in __getattr__
[rank2]:     raise AttributeError(
[rank2]: AttributeError: 'AutoModelForCausalLMWithValueHead' object has no attribute 'warnings_issued'
""",
        "trl/warnings-issued",
    ),
    (
        "https://github.com/huggingface/trl/issues/4617",
        """
Traceback (most recent call last):
  File "/usr/local/lib/python3.12/dist-packages/trl/trainer/grpo_trainer.py", line 95, in <module>
ImportError: cannot import name 'GuidedDecodingParams' from 'vllm.sampling_params' (/usr/local/lib/python3.12/dist-packages/vllm/sampling_params.py)
""",
        "vllm/guided-decoding-params",
    ),
    (
        "https://github.com/modelscope/ms-swift/issues/9343",
        """
RuntimeError: Failed to import trl.trainer.dpo_trainer because of the following error (look up to see its traceback):
cannot import name 'MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES' from 'transformers.models.auto.modeling_auto' (/home/user/venv/lib/python3.10/site-packages/transformers/models/auto/modeling_auto.py)
""",
        "trl/dpo-vision-mapping",
    ),
    (
        "https://github.com/pytorch/pytorch/pull/167187",
        "E       torch._inductor.exc.InductorError: AttributeError: 'KernelMetadata' object has no attribute 'cluster_dims'",
        "triton/compiled-kernel-dims",
    ),
    (
        "https://github.com/unslothai/unsloth/pull/4807",
        """
ValueError: Target module Gemma4ClippableLinear(
  (linear): Linear(in_features=768, out_features=768, bias=False)
) is not supported. Currently, only the following modules are supported:
""",
        "peft/gemma4-clippable-linear-lora",
    ),
    (
        "https://github.com/allenai/open-instruct/pull/1297",
        """
Exception ignored in: <function ResourceTracker.__del__ at 0x31d2d0ae0>
Traceback (most recent call last):
  File "/repo/.venv/lib/python3.12/site-packages/multiprocess/resource_tracker.py", line 80, in __del__
  File "/repo/.venv/lib/python3.12/site-packages/multiprocess/resource_tracker.py", line 102, in _stop_locked
AttributeError: '_thread.RLock' object has no attribute '_recursion_count'
""",
        "multiprocess/resource-tracker-recursion-count",
    ),
    (
        "https://github.com/triton-inference-server/pytriton/issues/51",
        """
  File "/miniconda3/envs/py3.11/lib/python3.11/multiprocessing/shared_memory.py", line 120, in __init__
  File "/miniconda3/envs/py3.11/lib/python3.11/multiprocessing/resource_tracker.py", line 174, in register
AttributeError: '_thread.RLock' object has no attribute '_recursion_count'
""",
        None,
    ),
    (
        "https://github.com/huggingface/transformers/pull/42542",
        """
stderr: [rank1]:   File "/home/axolotl/loaders/adapter.py", line 188, in load_adapter
stderr: [rank1]:   File "/venv/lib/python3.11/site-packages/transformers/modeling_utils.py", line 1986, in enable_input_require_grads
stderr: [rank1]:   File "/venv/lib/python3.11/site-packages/transformers/modeling_utils.py", line 993, in get_input_embeddings
stderr: [rank1]: NotImplementedError: `get_input_embeddings` not auto-handled for SiglipVisionTransformer; please override in the subclass.
""",
        "transformers/input-require-grads",
    ),
    (
        "https://github.com/huggingface/datasets/issues/7707",
        """
  File "/usr/local/lib/python3.12/dist-packages/datasets/features/audio.py", line 172, in decode_example
  File "/usr/local/lib/python3.12/dist-packages/torchcodec/_core/ops.py", line 69, in load_torchcodec_shared_libraries
RuntimeError: Could not load libtorchcodec. Likely causes:
          1. FFmpeg is not properly installed in your environment. We support
             versions 4, 5, 6 and 7.
""",
        "datasets/torchcodec-broken",
    ),
    (
        "https://github.com/huggingface/datasets/issues/7678",
        """
[/usr/local/lib/python3.11/dist-packages/datasets/features/audio.py](https://localhost:8080/#) in decode_example(self, value)
--> 172             raise ImportError("To support decoding audio data, please install 'torchcodec'.")
ImportError: To support decoding audio data, please install 'torchcodec'.
""",
        None,
    ),
    (
        "https://github.com/ace-step/ACE-Step-1.5/issues/685",
        """
  File "/workspace/.venv/lib/python3.11/site-packages/torchaudio/_torchcodec.py", line 82, in load_with_torchcodec
  File "/workspace/.venv/lib/python3.11/site-packages/torchcodec/_core/ops.py", line 69, in load_torchcodec_shared_libraries
RuntimeError: Could not load libtorchcodec. Likely causes:
""",
        None,
    ),
]
