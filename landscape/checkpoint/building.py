"""Networks that a user names for weights that do not say which network they are."""

import inspect
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from landscape.checkpoint.content import Content, one_line
from landscape.errors import LandscapeError, printable
from landscape.store.importing import named_object

_LOG = logging.getLogger("landscape.checkpoint")
HUGGING_FACE = "hf:auto"
# Of a configuration: what leads transformers to other code, other files or the network.
_LEADING = {"auto_map", "custom_pipelines", "quantization_config", "backbone_config", "backbone", "peft_config"}
_IGNORED = {"_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation"}
_REPEATING = ("layer", "depth", "block", "stage", "expert")
_LARGEST = 2**24


def is_code(model: str) -> bool:
    """Whether ``--model`` names code of the user's own."""
    return (":" in model and model != HUGGING_FACE) or model.endswith(".py")


def from_factory(model: str, num_classes: int | None) -> nn.Module:
    """What ``MODULE:FACTORY`` returns, called with ``num_classes`` when it takes it and it is given.

    Raises
    ------
    LandscapeError
        When there is no such factory, or it fails or returns no network.
    """
    factory = named_object(model)
    if not callable(factory):
        raise LandscapeError(f"{model} is a {type(factory).__name__}, not a factory: name a function or class")
    arguments = {"num_classes": num_classes} if num_classes is not None and _takes(factory, "num_classes") else {}
    try:
        # Initial weights are drawn from the global generator, which is the user's: put it back.
        with torch.random.fork_rng():
            model = factory(**arguments)
    except Exception as error:
        hint = "; it is called without arguments, num_classes aside" if isinstance(error, TypeError) else ""
        message = f"{model} failed to build a network: {type(error).__name__}: {one_line(error)}{hint}"
        raise LandscapeError(message) from error
    if not isinstance(model, nn.Module):
        raise LandscapeError(f"{model} returned a {type(model).__name__}: return a torch.nn.Module")
    return model


def _takes(factory: Any, parameter: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return False
    return any(each.name == parameter or each.kind is each.VAR_KEYWORD for each in parameters)


def from_folder(content: Content, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of transformers that a folder's ``config.json`` describes, with the weights of the folder.

    Only classes of the installed transformers library are built: no code of the folder or of the network is ever run,
    nothing is downloaded, and sizes are compared with those of the weights before memory is asked for.

    Raises
    ------
    LandscapeError
        When there is no configuration, transformers is not installed or does not know the architecture, or sizes are
        beyond the weights'.
    """
    path = content.path
    if content.config is None:
        raise LandscapeError(
            f"{path} is not a folder with a config.json: {HUGGING_FACE} is for what save_pretrained wrote"
        )
    try:
        import transformers
    except ImportError:
        raise LandscapeError(f"--model {HUGGING_FACE} needs transformers: pip install transformers") from None
    config = _plain(content.config, content)
    kind, names = config.pop("model_type", None), config.pop("architectures", None)
    name = names[0] if isinstance(names, list) and names else None
    architecture = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    known = kind in transformers.CONFIG_MAPPING if isinstance(kind, str) else False
    if not known or not isinstance(architecture, type) or not issubclass(architecture, transformers.PreTrainedModel):
        raise LandscapeError(
            f"{path} is a {printable(name, 60)} of type {printable(kind, 60)}, which this transformers "
            f"({transformers.__version__}) does not have: give --model FILE.py:FACTORY (code of the folder is not run)"
        )

    state = content.states[0]
    network: Any
    report: Any
    try:
        settings = transformers.CONFIG_MAPPING[kind].from_dict(config, attn_implementation="eager")
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in architecture(settings).parameters())
        # A head may be missing (of another task) or tied; more than that is not described by these weights.
        held = sum(map(math.prod, state.shapes.values()))
        if size > 2 * held + _LARGEST:
            raise LandscapeError(f"{path}: its config.json describes {size} parameters, its weights are {held}")
        tensors = {name: state.tensor(name) for name in state.shapes}
        # The library puts the weights in, since it knows by which names earlier versions of it saved them.
        with torch.random.fork_rng():
            both: Any = architecture.from_pretrained(
                None, config=settings, state_dict=tensors, output_loading_info=True, dtype=dtype
            )
        network, report = both
    except LandscapeError:
        raise
    except Exception as error:
        raise LandscapeError(
            f"{path}: {name} cannot be built from its config.json ({type(error).__name__}: "
            f"{one_line(error)}): copy the folder again"
        ) from error
    lacking = sorted(map(str, report["missing_keys"])) + [str(each) for each in report["mismatched_keys"]]
    if lacking:
        raise LandscapeError(
            f"{path} has no {printable(lacking[0], 100)} that fits; {len(lacking)} tensors of {name} are missing: "
            "it is not a complete checkpoint of a network for this task"
        )
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LandscapeError(f"{key} of {path} is not finite: the training diverged; use an earlier checkpoint")
    if report["unexpected_keys"]:
        _LOG.warning("%s: not used: %d tensors that %s has no place for", path, len(report["unexpected_keys"]), name)
    return network


def _plain(config: Mapping[str, Any], content: Content) -> dict[str, Any]:
    """A configuration without what would lead elsewhere, its numbers bounded."""
    tensors = len(content.states[0].shapes)

    def checked(name: str, value: Any, depth: int = 0) -> Any:
        if depth > 8:
            raise LandscapeError(f"{content.path}: its config.json is nested too deep: copy it again")
        if isinstance(value, dict):
            if name in _LEADING and value:
                raise LandscapeError(
                    f"{content.path}: its config.json has {name}, which leads to code or files elsewhere: "
                    "give --model FILE.py:FACTORY"
                )
            return {key: checked(str(key), each, depth + 1) for key, each in value.items() if key not in _IGNORED}
        if isinstance(value, list):
            return [checked(name, each, depth + 1) for each in value]
        if isinstance(value, int) and not isinstance(value, bool):
            bound = max(64, tensors) if any(part in name for part in _REPEATING) else _LARGEST
            if abs(value) > bound:
                raise LandscapeError(
                    f"{content.path}: its config.json has {printable(name, 40)} = {value}, beyond what its "
                    f"{tensors} tensors can be: copy it again"
                )
        elif isinstance(value, str) and name in _LEADING:
            raise LandscapeError(f"{content.path}: its config.json has {name}: give --model FILE.py:FACTORY")
        return value

    plain = {key: value for key, value in config.items() if key not in ("auto_map", "custom_pipelines", *_IGNORED)}
    return checked("", plain)
