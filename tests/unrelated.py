"""Tracebacks that show no bug of ours, many of them near to one: 8 places times 30 errors."""

PLACES = {
    "script": [("/home/me/train.py", "main")],
    "notebook": [("/tmp/ipykernel_1/1234.py", "<module>")],
    "transformers": [("/venv/lib/python3.11/site-packages/transformers/trainer.py", "train")],
    "generation": [("/venv/lib/python3.11/site-packages/transformers/generation/utils.py", "generate")],
    "peft": [("/venv/lib/python3.11/site-packages/peft/peft_model.py", "from_pretrained")],
    "torch": [("/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", "forward")],
    "wandb at run time": [
        ("/venv/lib/python3.11/site-packages/transformers/integrations/integration_utils.py", "setup"),
        ("/venv/lib/python3.11/site-packages/wandb/sdk/wandb_init.py", "init"),
    ],
    "other library": [
        ("/venv/lib/python3.11/site-packages/transformers/utils/import_utils.py", "_get_module"),
        ("/venv/lib/python3.11/site-packages/flash_attn/__init__.py", "<module>"),
    ],
}
ERRORS = [
    "ModuleNotFoundError: No module named 'flash_attn'",
    "ModuleNotFoundError: No module named 'vllm'",
    "ModuleNotFoundError: No module named 'transformers.models.gemma5'",
    "ImportError: cannot import name 'AutoModelForVision2Seq' from 'transformers'",
    "ImportError: cannot import name 'SlidingWindowCache' from 'transformers.cache_utils'",
    "ImportError: /venv/flash_attn_2_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
    "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "RuntimeError: CUDA error: device-side assert triggered",
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (12x64 and 128x64)",
    "RuntimeError: expected scalar type Half but found Float",
    "RuntimeError: masked_scatter_: expected self and source to have same dtypes but got Float and Half",
    "RuntimeError: value cannot be converted to type at::Half without overflow",
    "RuntimeError: Error(s) in loading state_dict for PeftModelForCausalLM:\n\tsize mismatch for head.lora_B",
    "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn",
    "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error",
    "torch.utils.checkpoint.CheckpointError: torch.utils.checkpoint: A different number of tensors was saved",
    "IndexError: list index out of range",
    "IndexError: index out of range in self",
    "KeyError: 'input_ids'",
    "KeyError: 'qwen9'",
    "TypeError: 'NoneType' object is not subscriptable",
    "TypeError: generate() got an unexpected keyword argument 'max_token'",
    "TypeError: Trainer.__init__() got an unexpected keyword argument 'tokenizer'",
    "AttributeError: 'LlamaForCausalLM' object has no attribute 'generate_text'",
    "AttributeError: 'DynamicCache' object has no attribute 'seen_tokens'",
    "ValueError: Target modules {'q_proj', 'v_proj'} not found in the base model.",
    "ValueError: The following `model_kwargs` are not used by the model: ['token_type_ids']",
    "OSError: gated/repo is not a local folder and is not a valid model identifier",
    "wandb.errors.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[your_api_key])",
]


def unrelated():
    """Each error in each place."""
    for place, frames in PLACES.items():
        for error in ERRORS:
            lines = [f'  File "{file}", line 7, in {name}\n    step()' for file, name in frames]
            yield place, "\n".join(["Traceback (most recent call last):", *lines, error, ""])
