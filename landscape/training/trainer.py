"""The training loop: a recipe in, a checkpoint out, resumable after every epoch to the same bits."""

import hashlib
import io
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from landscape import checkpoint, data, nets
from landscape.checkpoint.torch_files import require_plain
from landscape.compute.masks import Masks
from landscape.compute.progress import Progress
from landscape.compute.randomness import derived_seed, generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.store import registry
from landscape.store.files import write_whole
from landscape.training.recipes import Recipe
from landscape.training.recording import Recording

if TYPE_CHECKING:
    from landscape.monitor import Monitor

_log = logging.getLogger(__name__)

EVALUATION_BATCH = 500
# Steps on a GPU before one is recorded: what libraries and optimizers set up once is behind them.
_BEFORE_RECORDING = 8
# Largest difference of a recorded step from the step itself, in lengths of the step: kernels that sum in another order
# each time stay far below in bfloat16, and other masks or another rate are far above.
_SAME_STEP = 0.05
# Images that the curvature on the way is measured on: its course, not its value on all of them, is what is looked for.
_WATCHED = 256
# Seconds between states on disk: the small epochs of a fast machine take less than writing one.
_STATE_EVERY = 10.0
# Steps between measurements, where they take no more than their share of the time.
_EVERY = 100
_BUDGET: float | None = 0.05
PRECISIONS = ("auto", "float32", "bfloat16")


def precision(wanted: str, device: torch.device) -> torch.dtype:
    """Type that convolutions compute in: bfloat16 where the processor multiplies it natively, else float32.

    Parameters
    ----------
    wanted
        ``auto``, or ``float32`` or ``bfloat16`` to overrule.

    Notes
    -----
    Without instructions for it bfloat16 is emulated, slower than float32. Weights, their updates and batch-norm
    statistics are float32 in both cases.
    """
    if wanted not in PRECISIONS:
        raise LandscapeError(f"unknown precision {wanted!r}: choose one of {', '.join(PRECISIONS)}")
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        facts = Path("/proc/cpuinfo")
        flags = facts.read_text().split() if facts.is_file() else []
        native = "avx512_bf16" in flags or "amx_bf16" in flags
    return torch.bfloat16 if native else torch.float32


@dataclass
class _Run:
    """One training in progress: what is needed to take a step, and to write it down."""

    recipe: Recipe
    seed: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: Images
    test: Images
    compute: torch.dtype
    history: list[dict[str, Any]]
    monitor: "Monitor | None" = None
    recording: Recording | None = None
    stepped: int = 0
    recordable: bool = True

    @classmethod
    def begun(cls, recipe: Recipe, seed: int, train: Images, test: Images, compute: torch.dtype) -> "_Run":
        """A training before its first step, on the device of its images."""
        model = nets.build(**recipe.model, seed=seed).to(train.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(recipe, seed, model, _optimizer(recipe, model), train, test, compute, [])

    @property
    def device(self) -> torch.device:
        return self.train.device

    @property
    def machine(self) -> dict[str, Any]:
        """What decides the bits besides recipe, seed and data."""
        return {
            "device": self.device.type,
            "precision": str(self.compute).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }

    def save(self, recipe: Recipe, path: Path, dtype: torch.dtype | None) -> None:
        """Write the weights as they stand as the checkpoint of `recipe`."""
        header = recipe.header(self.seed) | {"run": self.machine | {"data_sha256": self.train.sha256}}
        checkpoint.save(path, self.model.state_dict(), recipe=header, history=self.history, dtype=dtype)

    def forward(self, raw: torch.Tensor, images: Images, masks: torch.Generator) -> torch.Tensor:
        """Logits, float32, of raw images; dropout masks come from a generator on the device."""
        inputs = images.normalized(raw).contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(self.device.type, self.compute, enabled=self.compute != torch.float32)
        with Masks.stream(masks), autocast:
            return self.model(inputs).float()

    def step(self, raw: torch.Tensor, labels: torch.Tensor, *purpose: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One update of the weights; the batch's mean loss and the number right, both on the device.

        On a GPU nothing in it makes the host wait, and whole batches are a replay of the first of them (`Recording`).
        """
        seed = derived_seed(self.seed, "mask", *purpose)
        if _records(self.device) and len(raw) == self.recipe.batch:
            self._record(raw, labels)
            if self.recording is not None:
                return self.recording(raw, labels, seed)
        self.stepped += 1
        return self.update(raw, labels, torch.Generator(self.device).manual_seed(seed))

    def _record(self, raw: torch.Tensor, labels: torch.Tensor) -> None:
        """Make the recording, once its time has come; where it cannot be made or is not the step, none is."""
        if self.recording is not None or not self.recordable or self.monitor or self.stepped < _BEFORE_RECORDING:
            return
        try:
            recording = Recording(self.update, self.model, self.optimizer, raw, labels)
            off = recording.difference()
        except RuntimeError as error:
            # A layer of the user's own may read a number on the host, which no recording can.
            self.recordable, why = False, str(error).splitlines()[0]
        else:
            self.recordable, why = off < _SAME_STEP, f"a recorded one is off by {off:.1%}"
        if self.recordable:
            self.recording = recording
        else:
            _log.info("steps of %s are not recorded: %s", self.recipe.name, why)

    def update(
        self, raw: torch.Tensor, labels: torch.Tensor, masks: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The work of a step."""
        outputs = self.forward(raw, self.train, masks)
        loss = functional.cross_entropy(outputs, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (outputs.detach().argmax(1) == labels).sum()

    def epoch(self, number: int, bar: Progress) -> None:
        """One pass over the training set, then one over the test set, and a line in the history."""
        began = time.perf_counter()
        recipe, train, count = self.recipe, self.train, len(self.train)
        order = torch.randperm(count, generator=generator(self.seed, "order", number)).to(self.device)
        padding, flip = (train.crop_padding, train.flip) if recipe.augmentation else (0, False)
        drawn = data.draws(count, seed=self.seed, epoch=number, padding=padding, flip=flip).to(self.device)
        batches = _batches(order, recipe.batch)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        seen, reported = 0, 0
        rate = 0.0
        self.model.train()
        for step, rows in enumerate(batches):
            multiplier = recipe.schedule.multiplier(number * len(batches) + step, len(batches), recipe.epochs)
            rate = recipe.learning_rate * multiplier
            self.set_rate(rate)
            raw = train.images[rows]
            if padding or flip:
                raw = data.augment(raw, drawn[rows], padding=padding)
            loss, right = self.step(raw, train.labels[rows], number, step)
            if self.monitor is not None:
                self.monitor.step()
            loss_sum += loss * len(rows)
            correct += right
            seen += len(rows)
            # On a GPU reading a number waits for all that is queued: not at every step.
            if self.device.type == "cpu" or step % 20 == 19 or step == len(batches) - 1:
                facts = {"loss": f"{float(loss_sum) / seen:.3f}", "accuracy": f"{float(correct) / seen:.1%}"}
                bar.update(step + 1 - reported, epoch=number + 1, **facts)
                reported = step + 1
        mean_loss = float(loss_sum) / seen
        if not mean_loss < float("inf"):
            raise LandscapeError(
                f"training {recipe.name} diverged in epoch {number + 1} (loss {mean_loss}): lower the learning rate"
            )
        test_nll, test_accuracy = self.evaluate(number)
        self.history.append(
            {
                "epoch": number + 1,
                "learning_rate": rate,
                "train_cross_entropy": mean_loss,
                "train_l2": self.l2(),
                "train_accuracy": float(correct) / seen,
                "test_nll": test_nll,
                "test_accuracy": test_accuracy,
                "seconds": round(time.perf_counter() - began, 2),
            }
        )

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step; on the device where a recording reads it there."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @torch.no_grad()
    def evaluate(self, number: int) -> tuple[float, float]:
        """Mean negative log-likelihood and accuracy on the test set, one pass (one dropout sample)."""
        self.model.eval()
        loss_sum, correct = 0.0, 0
        for start in range(0, len(self.test), EVALUATION_BATCH):
            labels = self.test.labels[start : start + EVALUATION_BATCH]
            masks = generator(self.seed, "mask", number, "test", start, device=self.device)
            outputs = self.forward(self.test.images[start : start + EVALUATION_BATCH], self.test, masks)
            loss_sum += float(functional.cross_entropy(outputs.double(), labels, reduction="sum"))
            correct += int((outputs.argmax(1) == labels).sum())
        return loss_sum / len(self.test), correct / len(self.test)

    @torch.no_grad()
    def l2(self) -> float:
        """The L2 term, weight_decay / 2 times the squared norm of all parameters, as it stands."""
        squares = sum(float(parameter.double().square().sum()) for parameter in self.model.parameters())
        return self.recipe.weight_decay / 2 * squares


def _records(device: torch.device) -> bool:
    return device.type == "cuda"


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": 0.0, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adam":
        settings["capturable"] = next(model.parameters()).device.type == "cuda"
        return torch.optim.Adam(model.parameters(), betas=(recipe.momentum, 0.999), **settings)
    return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, **settings)


def _batches(order: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Rows of each step. A last batch of a single example is left out: batch norm has no variance of it."""
    batches = list(order.split(size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def vouch(recipe: Recipe) -> None:
    """Remember a recipe's layer of the user's own: whoever asks for such a training vouches for the layer."""
    layer = recipe.model.get("smoothing")
    if isinstance(layer, str) and ":" in layer:
        registry.remember(layer)


def train(
    recipe: Recipe,
    path: Path,
    *,
    seed: int = 0,
    root: Path | str | None = None,
    device: torch.device | str = "cpu",
    compute: str = "auto",
    dtype: torch.dtype | None = None,
    max_seconds: float | None = None,
    series: bool = False,
    monitor: bool = False,
    quiet: bool = False,
) -> Path | None:
    """Train a network and write its checkpoint.

    The state is written beside `path` (``.state``) after an epoch, every ten seconds at most. When this function is
    called again after an interruption it resumes from there, and on the same machine, with the same number of threads,
    ends with the same bits as if never interrupted: order, augmentation and masks of a step are functions of
    (seed, epoch, step).

    Parameters
    ----------
    recipe, seed
        What to train.
    path
        The checkpoint to write.
    root
        Folder of downloaded data (`data.load`).
    device, compute
        Where, and in which precision (`precision`).
    dtype
        Type to store the weights in (`checkpoint.save`).
    max_seconds
        Stop after the epoch behind which another would end later than this.
    series
        Keep a checkpoint after each epoch of `Recipe.series`, beside `path`: each is that of the recipe stopped there.
    monitor
        Measure the curvature on the way, on 256 training images every 100 steps or as often as 5 % of the time allows,
        and keep it beside `path` as a CSV (:class:`landscape.Monitor`). The weights have the same bits.
    quiet
        Show no progress.

    Returns
    -------
    Path or None
        The checkpoint; None when stopped by `max_seconds`, in which case calling again continues.

    Raises
    ------
    LandscapeError
        When the seed is negative, data are missing, a file cannot be written, the loss is no longer finite, or an
        interrupted training was begun in another precision, on another device or with another number of threads.
    """
    began = time.perf_counter()
    if not 0 <= seed < 2**63:
        # With another one in its header, no checkpoint is read again.
        raise LandscapeError(f"training {recipe.name}: {seed} is not a seed: give a whole number from 0, below 2^63")
    device = torch.device(device)
    train_images = data.load(recipe.data, "train", root=root).to(device)
    test_images = data.load(recipe.data, "test", root=root).to(device)
    for images in (train_images, test_images):
        images.require_labels_below(recipe.model["num_classes"])
    vouch(recipe)
    run = _Run.begun(recipe, seed, train_images, test_images, precision(compute, device))
    state = path.with_name(f"{path.name}.state")
    _restore(run, state)
    steps = len(_batches(torch.arange(len(train_images)), recipe.batch))
    done, written = len(run.history), -math.inf
    if monitor:
        run.monitor = _monitor(run, path, done * steps)
    with Progress(recipe.trained_epochs * steps, f"{recipe.name}, seed {seed}", quiet=quiet, done=done * steps) as bar:
        for number in range(done, recipe.trained_epochs):
            run.epoch(number, bar)
            if series and number + 1 in recipe.series:
                stopped = recipe.replace(stop_after=number + 1)
                run.save(stopped, path.with_name(stopped.file_name(seed)), dtype)
            longest = max(epoch["seconds"] for epoch in run.history[done:])
            now, last = time.perf_counter(), number + 1 == recipe.trained_epochs
            late = not last and max_seconds is not None and now - began + longest > max_seconds
            if late or (not last and now - written > _STATE_EVERY):
                write_whole(state, _state(run))
                written = now
            if late:
                return None
    run.save(recipe, path, dtype)
    state.unlink(missing_ok=True)
    return path


def _monitor(run: _Run, path: Path, first_step: int) -> "Monitor":
    """Watches a training from a step on."""
    # Only a training that is watched needs the solvers.
    from landscape.monitor import Monitor

    examples = run.train.subset(min(_WATCHED, len(run.train)), seed=0)
    log = path.with_name(f"{path.name.removesuffix('.safetensors')}.curvature.csv")
    return Monitor(
        run.model, examples, optimizer=run.optimizer, every=_EVERY, budget=_BUDGET, log=log, first_step=first_step
    )


def _identity(run: _Run) -> str:
    """What a state must agree with to be of the same training."""
    return json.dumps(run.recipe.header(run.seed) | {"data_sha256": run.train.sha256}, sort_keys=True)


def _state(run: _Run) -> bytes:
    """The training as it stands, behind the SHA-256 of its bytes."""
    buffer = io.BytesIO()
    content = {
        "identity": _identity(run),
        "machine": run.machine,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": json.dumps(run.history),
    }
    torch.save(content, buffer)
    return hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


def _restore(run: _Run, path: Path) -> None:
    """Resume an interrupted training of the same recipe, seed and data, if there is one."""
    if not path.is_file():
        return
    sealed = path.read_bytes()
    digest, stored = sealed[:32], sealed[32:]
    if hashlib.sha256(stored).digest() != digest:
        raise LandscapeError(f"{path} is damaged: delete it to train from the start")
    damaged = LandscapeError(f"{path} is not the state of a training: delete it to train from the start")
    require_plain(stored, path)
    try:
        content = torch.load(io.BytesIO(stored), map_location=run.device, weights_only=True)
        if content["identity"] != _identity(run):
            return
        begun = dict(content["machine"])
    except Exception:  # what is not a state can fail in any way
        raise damaged from None
    changed = [
        f"{name} {begun.get(name)}, not {value}" for name, value in run.machine.items() if begun.get(name) != value
    ]
    if changed:
        raise LandscapeError(
            f"the interrupted training {path} was begun with {'; '.join(changed)}: "
            "resume it as it was begun, or delete it to train from the start"
        )
    try:
        run.model.load_state_dict(content["model"])
        run.optimizer.load_state_dict(content["optimizer"])
        run.history = list(json.loads(content["history"]))
    except Exception:
        raise damaged from None
