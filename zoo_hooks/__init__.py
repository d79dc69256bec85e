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
        "transformers.modeling_utils",
        "transformers.models.diffusion_gemma.modeling_diffusion_gemma",
        "transformers.models.gemma3n.modeling_gemma3n",
        "transformers.models.gemma4.configuration_gemma4",
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.gemma4_unified.configuration_gemma4_unified",
        "transformers.models.gemma4_unified.modeling_gemma4_unified",
        "transformers.models.mistral_large4.modeling_mistral_large4",
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

OFF_WORDS = frozenset({"0", "off", "false", "no", "none", "n", "f", "disable", "disabled"})

_PUBLIC = {
    "activate": "zoo_hooks.controls",
    "disabled": "zoo_hooks.controls",
    "fingerprint": "zoo_hooks.reports",
    "report": "zoo_hooks.reports",
    "revert": "zoo_hooks.controls",
}

FRAMES = 300  # that our work may need below the target's; nearer to the recursion limit nothing is repaired
STACK = 1 << 20  # bytes; in a thread with less nothing is repaired

# A tool that purges sys.modules and imports us again gets the module that is the finder already.
_me = sys.modules[__name__]
for _finder in sys.meta_path:
    if getattr(_finder, "__name__", "") == __name__:
        _me = sys.modules[__name__] = _finder  # type: ignore[assignment]

_armed: "dict[str, Any]" = {}  # loaders by the target that they are armed for
_kept: "ModuleType | None" = None  # the engine, also where sys.modules no longer has it
_check: "Any" = None  # zoo_hooks.safety sets it while our own modules are imported
_told = False
_orphaned = False  # forked while another thread was importing: its locks are never released


def init() -> None:
    """Put the finder on ``sys.meta_path``, unless it is there or ``ZOO_HOOKS`` switches it off.

    The finder is this module: a class would cost each start as much again as all the rest.
    """
    if not switched_off() and not installed():
        import os

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forked)
        sys.meta_path.insert(0, _me)


def installed() -> bool:
    """Tell whether the finder is on ``sys.meta_path``."""
    return id(_me) in map(id, sys.meta_path)


def switched_off() -> bool:
    """Tell whether ``ZOO_HOOKS`` says that nothing is to be done, as it stands now."""
    import os  # not above: this module outlives most others at exit, and would keep os alive

    try:
        return os.environ.get("ZOO_HOOKS", "").strip().lower() in OFF_WORDS
    except BaseException as error:  # the environment has been replaced by something that cannot be read
        if _outside(error):
            raise
        return True


def find_spec(
    name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
) -> "ModuleSpec | None":
    """Return the spec that the finders behind this one have for a target; None for the rest."""
    if name not in TARGETS:
        return None if _check is None else _check(name, path, target)
    if switched_off() or _cramped():
        return None
    try:
        spec = spec_behind(name, path, target)
    except BaseException as error:
        _without_frames(error)
        raise
    if spec is not None:
        try:
            _arm(spec.loader, name)
        except BaseException as error:  # a loader may be anything
            if _outside(error):
                raise
    return spec


def spec_behind(name: str, path: "Any", target: "Any" = None) -> "ModuleSpec | None":
    """What the finders behind this one say, asked as the import system asks them."""
    behind = list(sys.meta_path)
    while behind and behind.pop(0) is not _me:
        pass
    for finder in behind:
        find: Any = getattr(finder, "find_spec", None)
        if find is not None:
            spec = find(name, path, target)
        elif legacy := getattr(sys.modules["_frozen_importlib"], "_find_spec_legacy", None):
            spec = legacy(finder, name, path)  # up to Python 3.11 those with find_module alone are used
        else:
            spec = None
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def _cramped() -> bool:
    frame, depth = sys._getframe(), 0  # noqa: SLF001 - documented
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    thread = sys.modules["_thread"]
    return sys.getrecursionlimit() - depth < FRAMES or 0 < thread.stack_size() < STACK


def _arm(loader: "Any", name: str) -> None:
    for _ in range(9):  # at most: it may be its own
        if type(loader).__name__ == "LazyLoader":
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
    names = getattr(module, "__dict__", {})
    name = getattr(names.get("__spec__"), "name", None) or names.get("__name__")
    finish = None
    if name in TARGETS:
        _disarm(loader, name)
    if name in BEFORE:
        finish = _run("before", module, name)
    try:
        for kind in type(loader).__mro__:
            if "exec_module" in vars(kind):  # a function, or a static or class method
                vars(kind)["exec_module"].__get__(loader, type(loader))(module)
                break
    except BaseException as error:
        _without_frames(error)
        raise
    finally:
        if finish is not None:
            finish()
    if name in TARGETS:
        _run("after", module, name)


def _without_frames(error: BaseException) -> None:
    # Python 3.11 and later re-raise with the traceback as it stands now, without our frames.
    rest = error.__traceback__
    while rest is not None and rest.tb_frame.f_globals is globals():
        rest = rest.tb_next
    BaseException.with_traceback(error, rest)  # the class of the error may not let itself be changed


def _run(turn: str, *arguments: "Any") -> "Any":
    """Let the engine act; nothing but what comes from outside, or strict mode, leaves here."""
    global _kept
    if _orphaned:
        return None
    try:
        if _kept is None:
            from zoo_hooks.safety import load

            _kept = load("zoo_hooks.engine")
        return getattr(_kept, turn)(*arguments)
    except BaseException as error:
        if type(error).__name__ == "PatchFailed" or _outside(error):
            raise
        _tell(error)
        return None


def _outside(error: BaseException) -> bool:
    try:
        from zoo_hooks.safety import from_outside
    except Exception:  # noqa: BLE001 - a damaged installation
        return False
    return from_outside(error)


def _tell(error: BaseException) -> None:
    global _told
    if _told or isinstance(error, (RecursionError, MemoryError)):
        return
    _told = True
    message = (
        f"zoo-hooks cannot work and repairs nothing ({type(error).__name__}: {error}); "
        "`zoo-hooks check` says what is damaged; reinstall it, or set ZOO_HOOKS=0 to silence this"
    )
    try:
        from zoo_hooks.safety import load

        load("zoo_hooks.notices").say(30, message)
    except Exception:  # noqa: BLE001 - a damaged installation
        sys.stderr.write(f"{message}\n")


def _forked() -> None:
    # In a child no other thread is left that would release a lock of the import system. Whatever our work
    # imports could wait for one for ever, so in such a child nothing more is repaired.
    global _orphaned
    me = sys.modules["_thread"].get_ident()
    locks = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
    owners = {getattr(reference(), "owner", None) for reference in list(locks.values())}
    _orphaned = bool(owners - {None, me})


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *_PUBLIC})


def __deepcopy__(_: "Any") -> "Any":  # noqa: N807 - of sys.meta_path, as any finder lets itself be
    return _me


def __reduce_ex__(_: "Any") -> "Any":  # noqa: N807
    from importlib import import_module

    return import_module, (__name__,)
