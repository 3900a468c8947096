"""Monitors for trainers that own the loop: Lightning and Hugging Face, imported when used."""

import importlib
from typing import Any

from landscape.errors import LandscapeError
from landscape.monitor.monitor import Monitor


def lightning_callback(examples: Any, loss: Any = "cross_entropy", **settings: Any) -> Any:
    """A Lightning callback that measures while ``Trainer.fit`` runs.

    Parameters
    ----------
    examples, loss, settings
        As in :class:`Monitor`. Numbers go to the trainer's loggers unless ``log`` says otherwise. The module itself is
        called with the inputs; with several optimizers the first is read.

    Returns
    -------
    lightning.pytorch.Callback
        Its ``monitor`` is the :class:`Monitor` once training has begun.

    Raises
    ------
    LandscapeError
        When Lightning is not installed.
    """
    base = _class_of(("lightning.pytorch", "pytorch_lightning"), "Callback", "Lightning", "lightning")

    class CurvatureCallback(base):  # type: ignore[valid-type,misc]
        """Measures curvature behind optimizer steps."""

        monitor: Monitor | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Create the monitor, on the module's device."""
            given = {"log": list(getattr(trainer, "loggers", [])) or None, **settings}
            first = int(getattr(trainer, "global_step", 0))
            self.monitor = Monitor(
                pl_module, examples, loss, optimizer=trainer.optimizers[0], first_step=first, **given
            )

        def on_train_batch_end(self, trainer: Any, *arguments: Any, **keywords: Any) -> None:
            """Count the optimizer's steps: none while gradients accumulate."""
            assert self.monitor is not None
            while self.monitor.steps < int(trainer.global_step):
                self.monitor.step()

    return CurvatureCallback()


def transformers_callback(examples: Any, loss: Any = "cross_entropy", **settings: Any) -> Any:
    """A callback of Hugging Face's ``Trainer`` that measures while it trains.

    Parameters
    ----------
    examples
        As in :class:`Monitor`; usually a mapping of tensors, ``labels`` among them, passed to the model by name.
    loss, settings
        As in :class:`Monitor`; the loss is of the model's ``logits``.

    Returns
    -------
    transformers.TrainerCallback
        Its ``monitor`` is the :class:`Monitor` once training has begun.

    Raises
    ------
    LandscapeError
        When transformers is not installed.
    """
    base = _class_of(("transformers",), "TrainerCallback", "transformers", "transformers")

    class CurvatureCallback(base):  # type: ignore[valid-type,misc]
        """Measures curvature behind optimizer steps."""

        monitor: Monitor | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Create the monitor."""
            self.monitor = Monitor(
                given["model"],
                examples,
                loss,
                optimizer=given.get("optimizer"),
                first_step=state.global_step,
                **settings,
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Count an optimizer's step."""
            assert self.monitor is not None
            self.monitor.step()

    return CurvatureCallback()


def _class_of(modules: tuple[str, ...], name: str, what: str, package: str) -> Any:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    raise LandscapeError(f"{what} is not installed: install {package}, or call monitor.step() in your own loop")
