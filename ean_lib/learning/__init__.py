"""Training a network, and what is asked of a trained one: accuracy, cost, and where it looks."""

from ean_lib.learning.constant_gates import GateMoments, fold_constant_gates, gate_moments
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.gradcam import grad_cam
from ean_lib.learning.measure import measure, relative_time_increment
from ean_lib.learning.training import TrainConfig, train

__all__ = [
    "GateMoments",
    "TrainConfig",
    "evaluate",
    "fold_constant_gates",
    "gate_moments",
    "grad_cam",
    "measure",
    "relative_time_increment",
    "train",
]
