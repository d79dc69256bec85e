"""Ways in which users have a module that is repaired: subclassed, hooked, with adapters, traced, on meta.

Each is a function of the name of a model in the battery, and gives what comes out by part: the model's logits
without a cache, or what one module of each repaired class makes of what the model hands it. Of an error that
is a Failure. All run without the hooks too, in a child.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
from importlib import import_module
from types import FunctionType

import torch
from battery import MODELS

import zoo_hooks
from zoo_hooks import catalogue, ledger

PART, SMALL, NEAR = 0.5, 0.05, 1e-5
"""Of its largest output is what a hook adds to a layer's, and what adapters' biases are."""
METHODS: dict[type, tuple[str, ...]] = {}
"""The methods of modules that repairs have changed, by class."""


def repaired():
    """By patch the classes of modules and their methods that its repair has changed, by name."""
    found = {}
    for patch in catalogue.everything():
        for outcome in ledger.of_patch(patch.id):
            for layer in outcome.changes._made if outcome.changes else ():
                kind, raw = layer.place.owner, layer.place.found
                if (
                    isinstance(kind, type)
                    and issubclass(kind, torch.nn.Module)
                    and isinstance(raw, FunctionType)
                ):
                    found.setdefault(patch.id, []).append(
                        (kind.__module__, kind.__qualname__, layer.place.name)
                    )
    return found


def watch(changed):
    """Have these classes and methods looked at."""
    METHODS.clear()
    for module, named, name in changed:
        kind = getattr(import_module(module), named)
        METHODS[kind] = tuple(dict.fromkeys((*METHODS.get(kind, ()), name)))


def parts(model):
    """The modules of a model whose class is repaired, by path, with the names of the methods."""
    for path, module in model.named_modules():
        names = [name for kind, some in METHODS.items() if isinstance(module, kind) for name in some]
        if names:
            yield path, module, names


def one_of_each(model):
    """The first module of each repaired class, by the name of the class."""
    return {type(module).__name__: module for _, module, _ in reversed(list(parts(model)))}


def layers(model):
    """The linear layers in the repaired modules, by path."""
    return {
        f"{path}.{name}".lstrip("."): layer
        for path, module, _ in parts(model)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


class Failure(str):
    """What an error says in its first line."""

    __slots__ = ()


def text(error):
    return Failure(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def logits(model, name, *, use_cache=False):
    """By part, as all that is given here: there is only one."""
    try:
        with torch.no_grad(), MODELS[name].running():
            return {"logits": model(**MODELS[name].inputs(), use_cache=use_cache).logits}
    except Exception as error:  # noqa: BLE001 - it is compared
        return {"logits": text(error)}


@functools.cache
def _made(make):
    return make()


def build(name):
    return copy.deepcopy(_made(MODELS[name].build))


def reference(name):
    """A model that a right upstream computes as this one should be."""
    return copy.deepcopy(_made(MODELS[name].reference or MODELS[name].build))


def called_as_upstream(function, args, kwargs):
    """Raise where a method is not called as its signature says, or is handed something of ours."""
    given = inspect.signature(function).bind(*args, **kwargs)
    for parameter in given.signature.parameters.values():
        value = given.arguments.get(parameter.name)
        if parameter.kind is not parameter.VAR_KEYWORD and type(value).__module__.startswith("zoo_hooks"):
            raise AssertionError(f"{parameter.name} is a {type(value).__name__}")


def subclassed(name):
    """Overrides that look at what they are given and call upstream's."""

    def override(kind, method):
        above = getattr(kind, method)

        @functools.wraps(above)
        def call(self, *args, **kwargs):
            called_as_upstream(above, (self, *args), kwargs)
            return above(self, *args, **kwargs)

        return call

    model = build(name)
    for _, module, methods in parts(model):
        kind = type(module)
        own = {method: override(kind, method) for method in methods}
        module.__class__ = type(f"My{kind.__name__}", (kind,), own)
    return logits(model, name)


def wrapped(name):
    """Wrappers on the objects, as accelerate puts them there."""

    def wrapper(method):
        def call(*args, **kwargs):
            called_as_upstream(method, args, kwargs)
            return method(*args, **kwargs)

        return call

    model = build(name)
    for _, module, methods in parts(model):
        for method in methods:
            setattr(module, method, wrapper(getattr(module, method)))
    return logits(model, name)


def hooked(name):
    """Hooks before and after every module, that look."""
    model = build(name)
    for module in model.modules():
        module.register_forward_pre_hook(lambda *_: None)
        module.register_forward_hook(lambda *_: None)
    return logits(model, name)


@functools.cache
def additions(name):
    """What is added to the layers of a model: a part of the largest that each puts out in the reference."""
    model, largest = reference(name), {}

    def note(path):
        def hook(_, __, output):
            largest[path] = max(largest.get(path, 0.0), float(output.abs().max()))

        return hook

    for path, layer in layers(model).items():
        layer.register_forward_hook(note(path))
    logits(model, name)
    return {path: PART * most for path, most in largest.items()}


def steered(model, name):
    """Hooks that add to what each linear layer puts out."""
    found = layers(model)
    for path, most in additions(name).items():
        found[path].register_forward_hook(lambda *args, most=most: args[-1] + most)
    return model


OPTIONS = {
    "r": {},
    "bias": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "use_dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["down_proj", "k_proj"]},
    "trainable_token_indices": {"trainable_token_indices": [2, 3]},
    "target_parameters": {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "use_bdlora": {"use_bdlora": {"target_modules_bd_a": ["down_proj", "o_proj"], "nblocks": 2}},
    "kasa_config": {"kasa_config": {}},
    "monteclora_config": {"monteclora_config": {"num_samples": 2, "buffer_size": 2}},
}
"""Of LoraConfig, what adds parameters or has more of them trained, and how it is asked for."""


def adapted(option, model, name):
    """Adapters on the linear layers, the same each time, and not the zeros that they begin with."""
    import peft

    if hasattr(model, "peft_config"):
        model = model.unload()
    how = {"r": 2, "target_modules": sorted(layers(model)), "init_lora_weights": False, **OPTIONS[option]}
    for key, kind in (
        ("use_bdlora", "BdLoraConfig"),
        ("kasa_config", "KasaConfig"),
        ("monteclora_config", "MontecloraConfig"),
    ):
        if key in how:
            how[key] = getattr(import_module("peft.tuners.lora.config"), kind)(**how[key])
    if option == "modules_to_save":
        how["target_modules"] = [
            path for path in how["target_modules"] if path.rpartition(".")[2] not in how[option]
        ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = peft.get_peft_model(model, peft.LoraConfig(**how)).eval()
        for path, weight in made.named_parameters():
            if "lora_" in path:
                weight.data *= SMALL
            if "lora_B" in path and path.endswith("bias"):
                weight.data.fill_(max(additions(name).values()))
    return made


@functools.cache
def handed(name):
    """What a model hands one module of each repaired class, without a cache."""
    model, seen = build(name), {}

    def hook(kind):
        def note(_, args, kwargs):
            seen.setdefault(kind, (args, kwargs))

        return note

    modules = one_of_each(model)
    hooks = [
        module.register_forward_pre_hook(hook(kind), with_kwargs=True) for kind, module in modules.items()
    ]
    logits(model, name)
    for one in hooks:
        one.remove()
    return {kind: (modules[kind], *given) for kind, given in seen.items()}


def first(output):
    """The tensor that matters of what a module gives."""
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


def by_part(name, run):
    """What ``run`` makes of a module of each repaired class, and of what it is handed."""

    def tried(module, args, kwargs):
        try:
            with torch.no_grad(), MODELS[name].running():
                return run(module.requires_grad_(requires_grad=False), args, kwargs)
        except Exception as error:  # noqa: BLE001 - it is compared
            return text(error)

    return {kind: tried(*given) for kind, given in handed(name).items()}


def mapped(change, *some):
    return torch.utils._pytree.tree_map_only(torch.Tensor, change, some)


def said(output):
    return f"{tuple(output.shape)} {output.dtype}"


def called(name):
    """The shape and dtype that modules give by themselves."""
    return by_part(name, lambda module, args, kwargs: said(first(module(*args, **kwargs))))


def on_meta(name):
    """The shape and dtype that modules give on the meta device."""

    def run(module, args, kwargs):
        args, kwargs = mapped(lambda one: one.to("meta"), args, kwargs)
        return said(first(copy.deepcopy(module).to("meta")(*args, **kwargs)))

    return by_part(name, run)


def traced(name):
    """Modules that were traced with small numbers."""

    def run(module, args, kwargs):
        given, shape = torch.utils._pytree.tree_flatten((args, kwargs))
        tensors = [one for one in given if isinstance(one, torch.Tensor)]

        def call(*some):
            rest = iter(some)
            filled = [next(rest) if isinstance(one, torch.Tensor) else one for one in given]
            args, kwargs = torch.utils._pytree.tree_unflatten(filled, shape)
            return first(module(*args, **kwargs))

        small = [one * 2**-6 if one.is_floating_point() else one for one in tensors]
        return torch.jit.trace(call, tuple(small), check_trace=False)(*tensors)

    return by_part(name, run)


@contextlib.contextmanager
def one_process():
    """A mesh of which this process is all."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield torch.distributed.init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


def sharded(name):
    """Modules whose weights are DTensors, and so is what they are given."""
    from torch.distributed.tensor import DTensor, distribute_module
    from torch.distributed.tensor.experimental import implicit_replication

    def run(module, args, kwargs):
        with one_process() as mesh, implicit_replication():
            args, kwargs = mapped(lambda one: DTensor.from_local(one, mesh), args, kwargs)
            return first(distribute_module(copy.deepcopy(module), mesh)(*args, **kwargs)).full_tensor()

    return by_part(name, run)


def upstreams(function):
    """What is below our wrappers."""
    while function.__globals__["__name__"].startswith("zoo_hooks"):
        function = function.__wrapped__
    return function


@contextlib.contextmanager
def replaced(kinds):
    """Methods of classes replaced as other libraries do it: by functions that compute what upstream's do."""
    kept = []

    def other(original):
        def call(*args, **kwargs):
            return original(*args, **kwargs)

        call.__signature__ = inspect.signature(original)
        return call

    for kind in kinds:
        for name in METHODS[kind]:
            kept.append((kind, name, vars(kind).get(name)))
            setattr(kind, name, other(upstreams(getattr(kind, name))))
    try:
        yield
    finally:
        for kind, name, value in reversed(kept):
            delattr(kind, name) if value is None else setattr(kind, name, value)


def overruled(name, without=lambda kind: replaced([kind])):
    """Methods of each repaired class in turn, replaced after the repair."""
    found, model = {}, build(name)
    for kind in METHODS:
        if any(isinstance(module, kind) for module in model.modules()):
            with without(kind):
                found[kind.__name__] = logits(model, name)["logits"]
    return found


@contextlib.contextmanager
def switched_off(kind):
    """The repairs of a class undone."""
    with contextlib.ExitStack() as stack:
        for patch, places in repaired().items():
            if any(place[:2] == (kind.__module__, kind.__qualname__) for place in places):
                stack.enter_context(zoo_hooks.disabled(patch))
        yield


def plain(name):
    """The model as it is."""
    return logits(build(name), name)


BY_MODEL = {"subclassed": subclassed, "wrapped": wrapped, "hooked": hooked, "overruled": overruled}
"""What comes out are the logits of the model as it is."""
BY_PART = {"called": called, "on_meta": on_meta, "traced": traced, "sharded": sharded}
CHANGING = {"steered": steered, **{option: functools.partial(adapted, option) for option in OPTIONS}}
"""What makes it another model, of which there is a reference too."""


SAME = {}
"""What models give with a cache, by which all releases share K/V, if they are their own reference."""


def seen(how, name):
    """What comes out, by part."""
    try:
        if how in CHANGING:
            model = CHANGING[how](build(name), name)
            if not MODELS[name].reference:
                SAME[how, name] = logits(model, name, use_cache=True)
            return logits(model, name)
        return {"plain": plain, **BY_MODEL, **BY_PART}[how](name)
    except Exception as error:  # noqa: BLE001 - it is compared
        return {"": text(error)}


@functools.cache
def expected(how, name):
    """What is right, by part, as far as that is known."""
    if (how, name) in SAME:
        return SAME[how, name]
    if how in CHANGING:
        return logits(CHANGING[how](reference(name), name), name, use_cache=True)
    if how in ("traced", "sharded"):
        return by_part(name, lambda module, args, kwargs: first(module(*args, **kwargs)))
    if how == "overruled":
        return {**overruled(name, switched_off), **referred(name)}
    return {} if how in BY_PART else referred(name)


@functools.cache
def referred(name):
    return logits(reference(name), name, use_cache=True)


def near(one, other, error):
    """Tell whether two outcomes are the same, but for an error of numbers that are finite."""
    if isinstance(one, str) or isinstance(other, str) or other is None:
        return one == other
    if one.shape != other.shape or not one.isfinite().all():
        return (
            one.shape == other.shape
            and torch.equal(one.isnan(), other.isnan())
            and not other.isfinite().all()
        )
    one, other = one.double(), other.double()
    return bool((one - other).norm() <= max(error, NEAR) * other.norm())


def without(file, changed, asked, names):
    """In a child without the hooks: cases, models as they are, and after another library came first."""
    watch([one for some in changed for one in some])
    found = {"cases": {case: seen(*case) for case in asked}}
    found["plain"] = {name: seen("plain", name) for name in names}
    with replaced(METHODS):
        os.environ.pop("ZOO_HOOKS")
        report = zoo_hooks.activate()
        _made.cache_clear()
        found["before"] = {name: seen("plain", name) for name in names}
        found["statuses"] = {row.id: row.status.name for row in report.rows}
    torch.save(found, file)
