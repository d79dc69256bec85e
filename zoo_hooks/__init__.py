"""Repairs for known bugs between the libraries of the ML stack, made as those libraries are imported.

This module runs at the start of every Python process of its environment, so it imports only what
is there already and does one thing: it puts a finder with a set of exact names on
``sys.meta_path``. All else is imported when a watched module has been loaded.

It has more than 200 lines, for the names have to stand here: to import them would double its cost.
"""

import sys

TYPE_CHECKING = False  # typing itself is too costly to import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from zoo_hooks.controls import activate, disabled, revert
    from zoo_hooks.reports import fingerprint, report

__version__ = "0.1.0"
__all__ = ["activate", "disabled", "fingerprint", "init", "report", "revert"]

# The modules whose import triggers a patch. A test compares them with the patches on disk.
TARGETS = frozenset(
    {
        "accelerate.accelerator",
        "datasets.config",
        "dill._dill",
        "mlx_lm.models.gemma3n",
        "mlx_vlm.models.gemma3n.gemma3n",
        "mlx_vlm.models.gemma3n.language",
        "mlx_vlm.models.gemma4.gemma4",
        "mlx_vlm.models.gemma4.language",
        "multiprocess.resource_tracker",
        "peft.peft_model",
        "peft.tuners",
        "peft.tuners.lora.model",
        "peft.utils.transformers_weight_conversion",
        "torch._dynamo.compiled_autograd",
        "transformers.distributed.tensor_parallel",
        "transformers.audio_utils",
        "transformers.cache_utils",
        "transformers.generation.utils",
        "transformers.integrations.bitsandbytes",
        "transformers.integrations.integration_utils",
        "transformers.modeling_layers",
        "transformers.modeling_outputs",
        "transformers.modeling_utils",
        "transformers.models.diffusion_gemma.modeling_diffusion_gemma",
        "transformers.models.gemma3n.modeling_gemma3n",
        "transformers.models.gemma4.configuration_gemma4",
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.gemma4_unified.configuration_gemma4_unified",
        "transformers.models.gemma4_unified.modeling_gemma4_unified",
        "transformers.models.mistral_large4.modeling_mistral_large4",
        "transformers.pipelines.pt_utils",
        "transformers.quantizers.quantizer_bnb_4bit",
        "transformers.trainer",
        "triton.compiler.compiler",
        "trl",
        "trl.experimental.gold.gold_trainer",
        "trl.experimental.online_dpo.online_dpo_trainer",
        "trl.experimental.openenv.utils",
        "trl.import_utils",
        "trl.scripts.vllm_serve",
        "trl.trainer.dpo_trainer",
        "trl.trainer.grpo_trainer",
        "trl.trainer.online_dpo_trainer",
        "trl.trainer.rloo_trainer",
        "trl.trainer.utils",
        "vllm.sampling_params",
    }
)
# Those among them that have a patch with when="before".
BEFORE = frozenset(
    {
        "peft.peft_model",
        "peft.utils.transformers_weight_conversion",
        "trl",
        "trl.scripts.vllm_serve",
        "trl.trainer.dpo_trainer",
    }
)

OFF_WORDS = frozenset({"0", "off", "false", "no"})

_PUBLIC = {
    "activate": "zoo_hooks.controls",
    "disabled": "zoo_hooks.controls",
    "fingerprint": "zoo_hooks.reports",
    "report": "zoo_hooks.reports",
    "revert": "zoo_hooks.controls",
}

_armed: "dict[str, Any]" = {}  # loaders by the target that they are armed for
_told_broken = False


def init() -> None:
    """Put the finder on ``sys.meta_path``, unless it is there or ``ZOO_HOOKS`` switches it off.

    The finder is this module: a class would cost each start as much again as all the rest.
    """
    if not switched_off() and not installed():
        sys.meta_path.insert(0, sys.modules[__name__])


def installed() -> bool:
    """Tell whether the finder is on ``sys.meta_path``."""
    return sys.modules[__name__] in sys.meta_path


def switched_off() -> bool:
    """Tell whether ``ZOO_HOOKS`` says that nothing is to be done, as it stands now."""
    import os  # not above: this module outlives most others at exit, and would keep os alive

    return os.environ.get("ZOO_HOOKS", "").strip().lower() in OFF_WORDS


def find_spec(
    name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
) -> "ModuleSpec | None":
    """Return the spec that the finders behind this one have for a target; None for the rest."""
    if name not in TARGETS or switched_off():
        return None
    try:
        behind = list(sys.meta_path)
        while behind and behind.pop(0) is not sys.modules[__name__]:
            pass
        for finder in behind:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _arm(spec.loader, name)
                return spec
    except Exception:  # noqa: BLE001, S110 - the import system now asks them itself, and its error shows no frame of ours
        pass
    return None


def _arm(loader: "Any", name: str) -> None:
    while type(loader).__name__ == "LazyLoader":
        loader = loader.loader  # it runs the body, and only at the first access
    attributes = loader.__dict__
    shadow = attributes.get("exec_module", exec_module)
    if getattr(shadow, "__func__", shadow) is exec_module and hasattr(type(loader), "exec_module"):
        # A module's body that warns with a stacklevel, and the traceback of one that fails, look past
        # the import system's frames, which Python knows by this file name. Ours is one of them.
        exec_module.__code__ = exec_module.__code__.replace(co_filename="<frozen importlib._bootstrap>")
        _armed[name] = loader
        attributes.setdefault("exec_module", exec_module.__get__(loader))


def _disarm(loader: "Any", name: str) -> None:
    # A loader may serve many modules and threads at once (zipimport, pytest's rewriter). No lock is
    # needed: who arms one writes _armed first, and here it is read again after the removal.
    _armed.pop(name, None)
    if id(loader) not in map(id, list(_armed.values())):
        shadow = loader.__dict__.pop("exec_module", None)
        if shadow and id(loader) in map(id, list(_armed.values())):
            loader.__dict__["exec_module"] = shadow


def exec_module(loader: "Any", module: "ModuleType") -> None:
    """Stand before one loader's own ``exec_module`` until the targets it is armed for have run."""
    name = module.__spec__.name if module.__spec__ else module.__name__
    finish = None
    if name in TARGETS:
        _disarm(loader, name)
    if name in BEFORE and (engine := _engine()):
        finish = engine.before(module)
    try:
        type(loader).exec_module(loader, module)
    except BaseException as error:
        # Python 3.11 and later re-raise with the traceback as it stands now, without this frame.
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next
        raise
    finally:
        if finish is not None:
            finish()
    if name in TARGETS and (engine := _engine()):
        engine.after(module)


def _engine() -> "ModuleType | None":
    global _told_broken
    try:
        from zoo_hooks import engine
    except Exception:  # a broken installation must not break the user's import
        if not _told_broken:
            _told_broken = True
            import logging

            logging.getLogger(__name__).warning(
                "zoo-hooks cannot load and repairs nothing; reinstall it, or set ZOO_HOOKS=0 to silence this",
                exc_info=True,
            )
        return None
    return engine


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *_PUBLIC})
