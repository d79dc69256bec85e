"""Repairs known bugs between the libraries of the ML stack while those libraries are imported.

This module runs at the start of every Python process of its environment, so it imports only what
is there already and does one thing: it puts a finder with a set of exact names on
``sys.meta_path``. All else is imported when a watched module has been loaded.

It has more than 200 lines, for the names have to stand here: to import them would double its cost.
Types stand in comments, for annotations are kept at run time. PYTEST_DONT_REWRITE: pytest would warn that a
plugin of its has been imported already.
"""

import sys

TYPE_CHECKING = False  # typing itself is too costly to import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from zoo_hooks import distributed
    from zoo_hooks.controls import activate, disabled, revert
    from zoo_hooks.records import config, fingerprint, log
    from zoo_hooks.reports import report

__version__ = "0.1.0"
__all__ = ["activate", "config", "disabled", "distributed", "fingerprint", "init", "log", "report", "revert"]

# The modules whose import triggers a patch, by package; a test compares them with the patches on disk. They
# are texts, each name between spaces: a set of as many names takes 1.25 million instructions instead of 1.16.
# fmt: off
TARGETS = {
    "accelerate": (
        " accelerate.accelerator "
        " accelerate.utils.imports "
    ),
    "compressed_tensors": (
        " compressed_tensors.quantization.lifecycle.initialize "
    ),
    "datasets": (
        " datasets.features.video "
        " datasets.packaged_modules.folder_based_builder.folder_based_builder "
    ),
    "dill": (
        " dill._dill "
    ),
    "mlx_lm": (
        " mlx_lm.models.afm7 "
        " mlx_lm.models.gemma3n "
        " mlx_lm.models.minicpm3 "
        " mlx_lm.models.phixtral "
    ),
    "mlx_vlm": (
        " mlx_vlm.models.afm7.language "
        " mlx_vlm.models.cohere_compass.language "
        " mlx_vlm.models.deepseek_v4.language "
        " mlx_vlm.models.ernie4_5_moe_vl.language "
        " mlx_vlm.models.falcon_ocr.language "
        " mlx_vlm.models.falcon_perception.language "
        " mlx_vlm.models.gemma3.language "
        " mlx_vlm.models.gemma3n.gemma3n "
        " mlx_vlm.models.gemma3n.language "
        " mlx_vlm.models.gemma4.gemma4 "
        " mlx_vlm.models.gemma4.language "
        " mlx_vlm.models.glm_ocr.language "
        " mlx_vlm.models.hunyuan_vl.language "
        " mlx_vlm.models.idefics3.language "
        " mlx_vlm.models.jina_vlm.language "
        " mlx_vlm.models.llava.language "
        " mlx_vlm.models.llava_bunny.language "
        " mlx_vlm.models.minimax.language "
        " mlx_vlm.models.mllama.language "
        " mlx_vlm.models.molmo2.language "
        " mlx_vlm.models.youtu_vl.language "
    ),
    "multiprocess": (
        " multiprocess.resource_tracker "
    ),
    "peft": (
        " peft.import_utils "
        " peft.peft_model "
        " peft.tuners "
        " peft.tuners.lora.model "
        " peft.tuners.shadow.model "
        " peft.utils.transformers_weight_conversion "
    ),
    "torch": (
        " torch._dynamo.compiled_autograd "
    ),
    "transformers": (
        " transformers.audio_utils "
        " transformers.cache_utils "
        " transformers.configuration_utils "
        " transformers.distributed.tensor_parallel "
        " transformers.generation.utils "
        " transformers.integrations.bitsandbytes "
        " transformers.integrations.integration_utils "
        " transformers.integrations.peft "
        " transformers.masking_utils "
        " transformers.modeling_layers "
        " transformers.modeling_outputs "
        " transformers.modeling_utils "
        " transformers.models.blip.modeling_blip_text "
        " transformers.models.cosmos3_edge.modeling_cosmos3_edge "
        " transformers.models.csm.modeling_csm "
        " transformers.models.ctrl.modeling_ctrl "
        " transformers.models.dbrx.modeling_dbrx "
        " transformers.models.diffusion_gemma.modeling_diffusion_gemma "
        " transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe "
        " transformers.models.gemma3.modeling_gemma3 "
        " transformers.models.gemma3n.modeling_gemma3n "
        " transformers.models.gemma4.configuration_gemma4 "
        " transformers.models.gemma4.modeling_gemma4 "
        " transformers.models.gemma4_unified.configuration_gemma4_unified "
        " transformers.models.gemma4_unified.modeling_gemma4_unified "
        " transformers.models.git.modeling_git "
        " transformers.models.granitemoe.modeling_granitemoe "
        " transformers.models.granitemoe_swa.modeling_granitemoe_swa "
        " transformers.models.granitemoehybrid.modeling_granitemoehybrid "
        " transformers.models.granitemoeshared.modeling_granitemoeshared "
        " transformers.models.kosmos2.modeling_kosmos2 "
        " transformers.models.kosmos2_5.modeling_kosmos2_5 "
        " transformers.models.mistral_large4.modeling_mistral_large4 "
        " transformers.models.molmo2.modeling_molmo2 "
        " transformers.models.moonshine_streaming.modeling_moonshine_streaming "
        " transformers.models.muse_glimmer.modeling_muse_glimmer "
        " transformers.models.muse_spark.modeling_muse_spark "
        " transformers.models.roformer.modeling_roformer "
        " transformers.models.siglip2.modeling_siglip2 "
        " transformers.models.udop.modeling_udop "
        " transformers.models.umt5.configuration_umt5 "
        " transformers.models.umt5.modeling_umt5 "
        " transformers.models.voxtral_realtime.modeling_voxtral_realtime "
        " transformers.pipelines.pt_utils "
        " transformers.processing_utils "
        " transformers.quantizers.quantizer_bnb_4bit "
        " transformers.quantizers.quantizer_bnb_8bit "
        " transformers.tokenization_mistral_common "
        " transformers.tokenization_utils_base "
        " transformers.trainer "
        " transformers.utils.import_utils "
    ),
    "triton": (
        " triton.compiler.compiler "
    ),
    "trl": (
        " trl "
        " trl.experimental.gold.gold_trainer "
        " trl.experimental.online_dpo.online_dpo_trainer "
        " trl.experimental.openenv.utils "
        " trl.import_utils "
        " trl.scripts.vllm_serve "
        " trl.trainer.dpo_trainer "
        " trl.trainer.grpo_trainer "
        " trl.trainer.online_dpo_trainer "
        " trl.trainer.reward_trainer "
        " trl.trainer.rloo_trainer "
        " trl.trainer.sft_trainer "
        " trl.trainer.utils "
    ),
    "vllm": (
        " vllm.sampling_params "
    ),
}
# fmt: on
# Those among them that have a patch with when="before".
BEFORE = frozenset(
    {
        "peft.peft_model",
        "peft.utils.transformers_weight_conversion",
        "transformers.tokenization_mistral_common",
        "trl",
        "trl.scripts.vllm_serve",
        "trl.trainer.dpo_trainer",
    }
)

OFF_WORDS = frozenset({"0", "off", "false", "no", "none", "n", "f", "disable", "disabled"})

# A tool that purges sys.modules and imports us again gets the module that is the finder already.
_me = sys.modules[__name__]
for _finder in sys.meta_path:
    if getattr(_finder, "__name__", "") == __name__:
        _me = sys.modules[__name__] = _finder  # type: ignore[assignment]

_arming = None  # type: Any  # zoo_hooks.arming, from the first target on
_check = None  # type: Any  # zoo_hooks.safety sets it while our own modules are imported
_orphaned = False  # forked while another thread was importing


def init():
    # type: () -> None
    """Put the finder on ``sys.meta_path``, unless it is there or ``ZOO_HOOKS`` switches it off.

    The finder is this module: a class would cost each start as much again as all the rest.
    """
    if not installed() and not switched_off():
        import os

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forked)
        sys.meta_path.insert(0, _me)


def installed():
    # type: () -> bool
    """Tell whether the finder is on ``sys.meta_path``."""
    return id(_me) in map(id, sys.meta_path)


def switched_off():
    # type: () -> bool
    """Tell whether ``ZOO_HOOKS`` says that nothing is to be done, as it stands now."""
    import os  # not above: this module outlives most others at exit, and would keep os alive

    try:
        return os.environ.get("ZOO_HOOKS", "").strip().lower() in OFF_WORDS
    except BaseException as error:  # the environment has been replaced by something that cannot be read
        arming().pass_on(error)
        return True


def is_target(name):
    # type: (str) -> bool
    """Tell whether a module of this name has a patch."""
    names = TARGETS.get(name.partition(".")[0])
    return names is not None and f" {name} " in names


def find_spec(name, path=None, target=None):
    # type: (str, Sequence[str] | None, ModuleType | None) -> ModuleSpec | None
    """Return the spec that the finders behind this one have for a target; None for the rest."""
    try:
        if is_target(name):
            return arming().find_spec(name, path, target)  # type: ignore[no-any-return]
    except BaseException as error:
        if arming().is_our_own(error):
            return None  # the import system goes on as without us
        raise
    return None if _check is None else _check(name, path, target)


def arming():
    # type: () -> Any
    """The module that arms the loaders of targets.

    It is not imported, for that can dead-lock inside find_spec, but executed as it would be, without a lock.
    To define here what it holds would cost each start of Python a third more.
    """
    global _arming
    if _arming is None:
        name, file = f"{__name__}.arming", f"{__path__[0]}/arming.py"
        module = type(sys)(name)  # type: Any
        module.zoo_hooks = _me
        try:
            try:
                loader = sys.modules["_frozen_importlib_external"].SourceFileLoader(name, file)
                code = loader.get_code(name)
            except (FileNotFoundError, NotADirectoryError):  # we are in an archive
                code = compile(__spec__.loader.get_data(file), file, "exec")  # type: ignore[union-attr]
            exec(code, module.__dict__)  # noqa: S102
            module.find_spec, module.pass_on  # noqa: B018
        except (Exception, SystemExit) as error:
            last = error.__traceback__  # type: Any
            while last.tb_next:
                last = last.tb_next
            if not last.tb_frame.f_code.co_filename.startswith(("<frozen", __path__[0])):
                raise  # by a signal handler
            sys.stderr.write(f"zoo-hooks repairs nothing, as {file} is damaged ({error}); reinstall it\n")
            module.find_spec = module.pass_on = module.is_our_own = lambda *_: None
        _arming = module
    return _arming


def _forked():
    # type: () -> None
    # No other thread is left in a child that would release a lock of the import system. What our work imports
    # could wait for one for ever, so nothing more is repaired where any was held.
    global _orphaned
    me = sys.modules["_thread"].get_ident()
    locks = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
    owners = {getattr(reference(), "owner", None) for reference in list(locks.values())}
    _orphaned = bool(owners - {None, me})


def __getattr__(name):
    # type: (str) -> Any
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {"report": "reports", "activate": "controls", "disabled": "controls", "revert": "controls"}
    home = f"{__name__}.{name if name == 'distributed' else homes.get(name, 'records')}"
    __import__(home)
    return getattr(sys.modules[home], name, sys.modules[home])


def __dir__():
    # type: () -> list[str]
    return sorted({*globals(), *__all__})


def __deepcopy__(_):  # noqa: N807 - of sys.meta_path, as any finder lets itself be copied
    # type: (Any) -> Any
    return _me


def __reduce_ex__(_):  # noqa: N807
    # type: (Any) -> Any
    return __import__, (__name__,)
