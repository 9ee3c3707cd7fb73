"""Training a network, and what is asked of a trained one: accuracy, cost, and where it looks."""

from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.gradcam import grad_cam
from ean_lib.learning.measure import measure, relative_time_increment
from ean_lib.learning.training import TrainConfig, train

__all__ = ["TrainConfig", "evaluate", "grad_cam", "measure", "relative_time_increment", "train"]
