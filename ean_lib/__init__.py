"""Where to plug attention: shared attention modules, connection schemes, and the search for a sparse one (EAN)."""

import logging

# torch warns where there is a CUDA compiler but no GPU, in every process; neither is needed.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

from ean_lib.attention import create_attention, list_attentions, register_attention
from ean_lib.data import Data, Split, load_data
from ean_lib.experiments.bench import load_bench
from ean_lib.experiments.steps import load_network
from ean_lib.learning.constant_gates import fold_constant_gates
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.gradcam import grad_cam
from ean_lib.learning.measure import measure, relative_time_increment
from ean_lib.learning.training import TrainConfig, train
from ean_lib.networks import AttentionResNet, PluggedNetwork, build_network, find_branches, plug
from ean_lib.networks.official import PUBLISHED_SCHEMES, load_official, published_scheme
from ean_lib.runs.records import list_records, load_record, recorded_file
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, SearchResult, search
from ean_lib.supernet import Scorer

__version__ = "0.1.0"

__all__ = [
    "PUBLISHED_SCHEMES", "AttentionResNet", "Data", "PluggedNetwork", "Scheme", "Scorer", "SearchConfig",
    "SearchResult", "Split", "TrainConfig", "build_network", "create_attention", "evaluate", "find_branches",
    "fold_constant_gates", "grad_cam", "list_attentions", "list_records", "load_bench", "load_data",
    "load_network", "load_official", "load_record", "measure", "plug", "published_scheme", "recorded_file",
    "register_attention", "relative_time_increment", "search", "train",
]  # fmt: skip
