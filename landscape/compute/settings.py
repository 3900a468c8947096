"""Settings of torch that a measurement must not inherit from whoever calls it.

``torch.autocast``, ``torch.inference_mode``, a default device or dtype, anomaly detection and TF32 change what is
computed without a trace in the result, and ``torch.utils.checkpoint`` has no second derivative. Every measurement
switches them off for itself, by the decorator `measurement`, and its caller's settings are as before when it returns.

Some of them belong to the thread and some to the whole process. Those of the process are counted: the first user
changes them, the last one puts them back, so that measurements in several threads do not undo each other's settings.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

import torch
import torch.utils.checkpoint

P = ParamSpec("P")
R = TypeVar("R")
State = TypeVar("State")


class ProcessSetting(Generic[State]):
    """A context within which a setting of the process has a given value; entered by any number of threads.

    Parameters
    ----------
    read, write
        The setting's current value, and how it is changed.
    wanted
        Its value within the context, computed from the one before.
    """

    def __init__(
        self, read: Callable[[], State], write: Callable[[State], None], wanted: Callable[[State], State]
    ) -> None:
        self._read, self._write, self._wanted = read, write, wanted
        self._lock = threading.Lock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = self._read()
                self._during = self._wanted(self._before)
                if self._during != self._before:
                    self._write(self._during)
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            # A setting that somebody else has changed meanwhile is theirs.
            if self._users == 0 and self._during != self._before and self._read() == self._during:
                self._write(self._before)


# Reduced precision of float32 products --------------------------------------------------------------------------------

_OPERATIONS = (("cudnn", "conv"), ("cudnn", "rnn"), ("cuda", "matmul"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
IEEE = "ieee"


def _operation(backend: str, operation: str) -> Any:
    return getattr(getattr(torch.backends, backend), operation, None)


def _float32_precision() -> dict[str, Any]:
    """How float32 products are computed, as far as this version of torch can say."""
    state: dict[str, Any] = {}
    # The older settings cannot be read while newer ones contradict them; then they do not count either.
    for name, read in (
        ("cudnn.allow_tf32", lambda: torch.backends.cudnn.allow_tf32),
        ("matmul", torch.get_float32_matmul_precision),
    ):
        try:
            state[name] = read()
        except RuntimeError:
            continue
    for backend, operation in _OPERATIONS:
        precision = getattr(_operation(backend, operation), "fp32_precision", None)
        if precision is not None:
            state[f"{backend}.{operation}"] = precision
    return state


def _set_float32_precision(values: dict[str, Any]) -> None:
    # The older settings first: setting them sets the newer ones, too.
    if "cudnn.allow_tf32" in values:
        torch.backends.cudnn.allow_tf32 = values["cudnn.allow_tf32"]
    if "matmul" in values:
        torch.set_float32_matmul_precision(values["matmul"])
    for backend, operation in _OPERATIONS:
        if f"{backend}.{operation}" in values:
            _operation(backend, operation).fp32_precision = values[f"{backend}.{operation}"]


def _without_tf32(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"cudnn.allow_tf32": False, "matmul": "highest"}.get(name, IEEE) for name in values}


# Attention ------------------------------------------------------------------------------------------------------------

_ATTENTION = {
    "flash": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    "efficient": (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    "cudnn": (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
    "math": (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
}


def _attention() -> dict[str, bool]:
    return {name: read() for name, (read, _) in _ATTENTION.items()}


def _set_attention(values: dict[str, bool]) -> None:
    for name, (_, write) in _ATTENTION.items():
        write(values[name])


# Attention takes its math kernel, the only one with a second derivative, on any device.
math_attention = ProcessSetting(_attention, _set_attention, lambda before: {name: name == "math" for name in before})

# Checkpointing of activations -----------------------------------------------------------------------------------------


class _AtOnce:
    """In place of what ``torch.utils.checkpoint`` computes again, a call: it has no second derivative."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *arguments: Any) -> Any:
        return function(*arguments)


def _nothing_around(*_: Any, **__: Any) -> Iterator[None]:
    yield


_CHECKPOINTING = ("CheckpointFunction", "_checkpoint_without_reentrant_generator")


def _checkpointing() -> tuple[Any, ...]:
    return tuple(getattr(torch.utils.checkpoint, name, None) for name in _CHECKPOINTING)


def _set_checkpointing(values: tuple[Any, ...]) -> None:
    for name, value in zip(_CHECKPOINTING, values, strict=True):
        if value is not None:
            setattr(torch.utils.checkpoint, name, value)


_PROCESS: tuple[ProcessSetting[Any], ...] = (
    ProcessSetting(_checkpointing, _set_checkpointing, lambda _: (_AtOnce, _nothing_around)),
    ProcessSetting(_float32_precision, _set_float32_precision, _without_tf32),
    ProcessSetting(torch.get_default_dtype, torch.set_default_dtype, lambda _: torch.float32),
    ProcessSetting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda values: torch.set_anomaly_enabled(*values),
        lambda before: (False, before[1]),
    ),
)


class _Here(threading.local):
    measuring = False


_here = _Here()


@contextmanager
def own_settings() -> Iterator[None]:
    """Within it, torch computes by a measurement's settings, whatever its caller's are.

    No autocast, no inference mode (gradients stay disabled if they were), the CPU as default device, float32 as
    default dtype, no anomaly detection, no activations that the network itself checkpoints, and float32 products in
    IEEE arithmetic: TF32 has a relative error of 1e-3, and the residual bounds assume 1e-7. Nesting costs nothing.
    """
    if _here.measuring:
        yield
        return
    with ExitStack() as stack:
        for setting in _PROCESS:
            stack.enter_context(setting)
        if torch.is_inference_mode_enabled():
            gradients = torch.is_grad_enabled()
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(gradients))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        _here.measuring = True
        try:
            yield
        finally:
            _here.measuring = False


def measurement(function: Callable[P, R]) -> Callable[P, R]:
    """The function, computed within `own_settings`."""

    @functools.wraps(function)
    def measured(*args: P.args, **kwargs: P.kwargs) -> R:
        if _here.measuring:
            return function(*args, **kwargs)
        with own_settings():
            return function(*args, **kwargs)

    return measured


def outside_inference(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, copied if it was made in inference mode: such tensors cannot take part in a graph."""
    return tensor.clone() if tensor.is_inference() else tensor
