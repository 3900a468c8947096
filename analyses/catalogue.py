"""Every study, as data: one question each, answered by comparing kinds of networks."""

from analyses import protocol_sweep
from analyses.studies import Study

_PAIRS = ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth")
# What an ablation looks at: curvature, model uncertainty, high frequencies, predictions.
_ABLATION = ("hessian", "feature_maps", "fourier", "predictions")


def _along_training(name: str, question: str, kind: str) -> Study:
    """Curvature at the checkpoints that trainings keep on the way, plain and smooth."""
    networks = (kind, f"{kind}-smooth")
    return Study(name, question, networks, ("series",), lighter={"curvature_images": 256}, along_training=True)


_LISTED = (
    Study(
        "hessian_spectra",
        "Is the curvature of smoothed networks smaller, with fewer outliers over mini-batches (C1, C2, C11)?",
        _PAIRS,
        ("hessian", "mini_batches"),
    ),
    Study(
        "loss_surfaces",
        "Is the loss surface of smoothed networks flatter, and smoother under dropout (C3, C11)?",
        _PAIRS,
        ("surface",),
    ),
    Study(
        "feature_uncertainty",
        "Does smoothing lower the variance of feature maps over dropout masks (C4)?",
        ("mcdo", "mcdo-smooth"),
        ("feature_maps",),
    ),
    Study(
        "fourier_analysis",
        "Does dropout add high frequencies, and does smoothing remove them (C5, C6)?",
        _PAIRS,
        ("fourier",),
    ),
    Study(
        "noise_robustness",
        "Do smoothed networks lose less accuracy under high-frequency noise (C7)?",
        _PAIRS,
        ("frequency_noise",),
    ),
    Study(
        "ensemble_size",
        "Are smoothed networks better at every ensemble size, and how many passes do they save (C8, C9, C13)?",
        _PAIRS,
        ("predictions",),
    ),
    Study("corruption_robustness", "Are smoothed networks more robust to corruptions (C10)?", _PAIRS, ("corruptions",)),
    _along_training(
        "training_curvature",
        "At which moment of a training does the curvature of smoothed networks begin to differ (C1, C2)?",
        "mcdo",
    ),
    _along_training("training_curvature_deterministic", "The same without dropout (C1, C13).", "dnn"),
    _along_training("training_curvature_transformer", "The same of a vision transformer.", "vit"),
    Study(
        "mlp_head",
        "Is the landscape of an MLP head sharper and rougher than that of GAP, and its training NLL higher (C11)?",
        ("mcdo", "mcdo-mlp"),
        ("mini_batches", "surface", "training"),
    ),
    Study(
        "temperature",
        "How much does the temperature t of the smoothing's tanh matter?",
        ("mcdo", "mcdo-t1", "mcdo-t3", "mcdo-smooth", "mcdo-t30", "mcdo-blur"),
        _ABLATION,
    ),
    Study(
        "kernel",
        "How much does the blur's kernel matter?",
        ("mcdo", "mcdo-tanh", "mcdo-smooth", "mcdo-kernel1-2-1", "mcdo-kernel1-3-3-1", "mcdo-kernel1-4-6-4-1"),
        _ABLATION,
    ),
    Study(
        "placement",
        "After which stage does smoothing act most?",
        ("mcdo", "mcdo-stage1", "mcdo-stage2", "mcdo-stage3", "mcdo-stage4", "mcdo-smooth"),
        _ABLATION,
    ),
    Study(
        "heads",
        "Which heads flatten and predict better (C11, C12: GAP as a smoothing)?",
        ("mcdo", "mcdo-mlp", "mcdo-gap-mlp", "mcdo-max", "mcdo-median", "mcdo-clipped"),
        _ABLATION,
    ),
    Study(
        "relu6",
        "Does bounding alone, as ReLU6 does, act like smoothing (C12)?",
        ("mcdo", "mcdo-relu6", "mcdo-relu6-blur", "mcdo-tanh", "mcdo-smooth"),
        _ABLATION,
    ),
    Study(
        "preactivation",
        "Does pre-activation act like smoothing (C12)?",
        ("mcdo", "mcdo-preact", "mcdo-smooth", "mcdo-preact-smooth"),
        _ABLATION,
    ),
    protocol_sweep.STUDY,
)
STUDIES: dict[str, Study] = {study.name: study for study in _LISTED}
