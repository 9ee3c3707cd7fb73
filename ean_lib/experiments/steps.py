"""The paper's pipeline as four functions, each of which owns one run folder: supernet, search, retrain, measure.

Every function can be called again with the same arguments: a finished run is read back, an unfinished one goes on.
Under ``accelerate launch`` all processes call them; the first one writes. Each is also a command of ``ean``, whose
options are its arguments; there, ``--preset`` and ``--dataset`` set the defaults (:mod:`ean_lib.experiments.recipes`).
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from ean_lib.checks import check
from ean_lib.data import Data
from ean_lib.devices import find_processes
from ean_lib.experiments.task import Share, Task
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.measure import measure
from ean_lib.learning.training import TrainConfig, resolve_precision, train
from ean_lib.networks import Network, check_state_dict
from ean_lib.runs import Run, Runtime, load_weights, read_config, read_json, rebuild, to_json, write_atomically
from ean_lib.runs.records import list_records, load_record
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, SearchResult, search
from ean_lib.search.space import Space
from ean_lib.supernet import SCORING_VERSION, Scorer

BITS = re.compile(r"\s*[01-]+\s*")  # of a scheme, such as 110-0011


# What the parts of a configuration are written from: an older one that lacks an option has its default.
OPTIONS = {"task": Task, "train": TrainConfig, "search": SearchConfig}


def open_run(
    out: Path, kind: str, task: Task, runtime: Runtime, seed: int, sees: Sequence[str], *, begins: bool = False,
    **config: Any,
) -> tuple[Run, Data]:  # fmt: skip
    """The folder of a run, and the task's data.

    Args:
        out: the folder.
        kind: supernet, search, retrain, scores or costs.
        task: images and network.
        runtime: where the work is done; the only argument that does not decide the result.
        seed: of the run.
        sees: the parts of the data that the result depends on, of "train", "val" and "test": where one of them has
            changed, it is another run.
        begins: whether the run begins with the task's network, and so with the weights that the task names.
        **config: whatever else decides the result.
    """
    data = task.data(runtime.data_dir)
    _, state = find_processes(runtime.device)
    if begins and task.starts_trained:
        config["initial_weights"] = task.initial_weights
    with state.main_process_first():  # it may download the weights
        # A network that cannot be built leaves no run folder behind.
        (task if begins else task.untrained()).network(data.num_classes)
    checksums = {"data": data.train.checksum}
    for part in sees:
        if part != "train":
            checksums[f"{part}_data"] = getattr(data, part).checksum
    origin = {"seed": seed, **checksums}
    full = {"kind": kind, "task": dataclasses.asdict(task), **origin, **config}
    with state.main_process_first():
        return Run(out, full, origin, writer=state.is_main_process, parts=OPTIONS), data


def weights_checksum(folder: Path) -> str:
    """SHA-256 of the weights in a run folder."""
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def result_of(run: Run) -> dict[str, Any]:
    """The result, once the first process has written it."""
    PartialState().wait_for_everyone()
    return run.result


def run_supernet(
    task: Task, config: TrainConfig, seed: int = 0, out: Path = Path("runs/supernet"),
    runtime: Runtime = Runtime(),
) -> dict[str, Any]:  # fmt: skip
    """Train a supernet: one network in which every scheme shares the weights.

    Example: ean supernet --dataset cued_shapes --attention se --out runs/supernet

    Args:
        seed: The seed of the weights, the order of images and the sampled schemes.
        out: The run folder.
    """
    config = resolve_precision(dataclasses.replace(config, seed=seed), runtime.device)
    recipe = dataclasses.asdict(config)
    run, data = open_run(out, "supernet", task, runtime, seed, sees=("train", "val"), begins=True, train=recipe)
    with run:
        if not run.finished:
            net = task.network(data.num_classes, seed=seed)
            history = train(net, data, config, "random", run, device=runtime.device, progress=runtime.progress)
            full = evaluate(net, data.val, Scheme.full(net.stages), device=runtime.device)
            run.finish({"epochs": len(history), "last": history[-1], "val_accuracy_full": full}, net.state_dict())
    return result_of(run)


def run_search(
    supernet: Path, config: SearchConfig = SearchConfig(), seed: int = 0, out: Path = Path("runs/search"),
    runtime: Runtime = Runtime(), recalibrate: int | None = 1000,
) -> SearchResult:  # fmt: skip
    """Search a trained supernet for the scheme to retrain.

    Example: ean search --supernet runs/supernet --method reinforce --out runs/search

    Args:
        supernet: The folder of a finished supernet.
        seed: The seed of the search.
        out: The run folder. A reward is computed once, also across a crash.
        recalibrate: Re-estimate BatchNorm for each scheme from this many training images; None keeps the supernet's
            statistics, as does a frozen backbone.
    """
    supernet_config, _ = read_finished_run(supernet, "supernet")
    task, net = rebuild(Task, supernet_config["task"]), load_network(supernet)
    augment = rebuild(TrainConfig, supernet_config["train"]).augment
    config = dataclasses.replace(config, seed=seed)
    if task.freeze is not None:  # the retrained network will have these statistics too
        recalibrate = None
    settings = {
        "search": dataclasses.asdict(config),
        "recalibrate": recalibrate,
        "supernet": weights_checksum(supernet),
        "scoring": SCORING_VERSION,
    }
    run, data = open_run(out, "search", task, runtime, seed, sees=("train", "val"), **settings)
    with run:
        if not run.finished and PartialState().is_main_process:
            known = {Scheme.parse(line["scheme"], net.stages): line["accuracy"] for line in run.read_metrics()}
            scorer = Scorer(net, data, recalibrate=recalibrate, augment=augment, device=runtime.device, known=known)
            space = Space(net.stages, config.fixed, config.max_connected)
            most = min(config.max_evaluations, space.size)
            bar = tqdm(total=most, initial=len(known), disable=not runtime.progress, unit="scheme", leave=False)

            def reward(schemes: Sequence[Scheme]) -> list[float]:
                before = len(scorer.known)
                values = scorer(schemes)
                if len(scorer.known) > before:
                    run.write_metrics({"scheme": str(s), "accuracy": value} for s, value in scorer.known.items())
                    bar.update(len(scorer.known) - before)
                return values

            with bar:
                if most == space.size:  # one walk over all costs less than asking step by step
                    reward(list(space.all()))
                result = search(reward, net.stages, config)
            run.finish(json.loads(result.to_json()))
    return SearchResult.from_json(json.dumps(result_of(run)))


def find_scheme(
    task: Task,
    train: TrainConfig,
    config: SearchConfig,
    recalibrate: int | None,
    seed: int,
    out: Path,
    runtime: Runtime,
) -> SearchResult:
    """Train a supernet, into out/supernet, and search it, into out/search."""
    run_supernet(task, train, seed, out / "supernet", runtime)
    return run_search(out / "supernet", config, seed, out / "search", runtime, recalibrate)


def run_retrain(
    task: Task, scheme: Scheme | str, config: TrainConfig, seed: int = 0,
    out: Path = Path("runs/retrain"), runtime: Runtime = Runtime(), share: Share = "stage",
    form: str | None = None, hold_out: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train one scheme from scratch on all training images and evaluate it once on the test images.

    Example: ean retrain --dataset cued_shapes --scheme 10-00-00 --out runs/ean

    Example: ean retrain --dataset cifar10 --scheme runs/search --seed 1 --out runs/ean-1

    Args:
        scheme: Bits such as 110-000-001, or full, or none (the backbone), or the folder of a finished search.
        seed: The seed of the weights and the order of images.
        out: The run folder.
        share: stage: one module per stage (Share, EAN); none: one per block (Org).
        form: What a report calls it; None: by its connections, one of `FORMS`.
        hold_out: Train without the search-val images, and record their accuracy beside the test part's, but no
            weights: a row of a table to choose from. Otherwise no choice is left to make, and they are trained on.
    """
    scheme = read_scheme(scheme, task)
    config = resolve_precision(dataclasses.replace(config, seed=seed), runtime.device)
    named = {"scheme": str(scheme), "share": share, "form": form or form_of(scheme, share)}
    if hold_out:
        named["hold_out"] = True
    recipe = dataclasses.asdict(config)
    sees = ("train", "val", "test")
    run, data = open_run(out, "retrain", task, runtime, seed, sees, begins=True, train=recipe, **named)
    with run:
        if not run.finished:
            net = task.network(data.num_classes, scheme, share, seed)
            split = data.train if hold_out else data.train.join(data.val)
            where = {"device": runtime.device, "progress": runtime.progress}
            history = train(net, data, config, scheme, run, split=split, **where)
            accuracy = evaluate(net, data.test, device=runtime.device)
            outcome = {"test_accuracy": accuracy, "test_images": len(data.test), "last": history[-1]}
            if hold_out:
                outcome["val_accuracy"] = evaluate(net, data.val, device=runtime.device)
            weights = None if hold_out else net.state_dict()
            run.finish({**named, "connected": scheme.connected, **outcome}, weights)
    return result_of(run)


def form_of(scheme: Scheme, share: Share) -> str:
    """What a report calls a scheme that was not made for one of its forms."""
    if not scheme.connected:
        return "backbone"
    if scheme.connected < len(scheme):
        return "ean"
    return "org-full" if share == "none" else "share-full"


def run_measure(
    folders: tuple[Path, ...], runtime: Runtime = Runtime(), batch_size: int = 64, rounds: int = 20
) -> dict[str, Any]:
    """Parameters, MACs and inference time of retrained networks, pruned and fused, against their backbone.

    Example: ean measure runs/ean runs/share-full

    Args:
        folders: Folders of finished retrainings with the same backbone; they are timed in turn. Each gets a
            measure.json.
        batch_size: Images per timed forward pass.
        rounds: Timings of each network; the median is reported with its quartiles.
    """
    check("what to measure", folders, len(folders) > 0, "at least one folder of a finished retraining")
    tasks = [rebuild(Task, read_finished_run(folder, "retrain")[0]["task"]) for folder in folders]
    for folder, other in zip(folders, tasks, strict=True):
        check_same_backbone(folders[0], tasks[0], folder, other)
    task = tasks[0]
    data = task.data(runtime.data_dir)
    backbone = task.untrained().network(data.num_classes, Scheme.none(task.stages))
    networks = {str(folder): load_network(folder) for folder in folders}
    measured = measure(networks, backbone, (batch_size, 3, *data.image_size), device=runtime.device, rounds=rounds)
    costs = {folder: dataclasses.asdict(cost) for folder, cost in measured.items()}
    for folder, cost in costs.items():
        write_atomically(Path(folder) / "measure.json", to_json(cost))
    return costs


def check_same_backbone(first: Path, task: Task, folder: Path, other: Task) -> None:
    """`ValueError`, which says what is different, unless two runs have the same backbone on images of the same kind."""
    for name in ("dataset", "backbone", "stages", "width", "stem_stride"):
        expected, came = getattr(task, name), getattr(other, name)
        if came != expected:
            what = f"{folder} has another backbone than {first}: {name} is {came}, not {expected}"
            raise ValueError(f"{what}; measure networks of one backbone together")


def read_scheme(scheme: Scheme | str, task: Task) -> Scheme:
    """The scheme that a user means by bits, full, none, the folder of a finished search, or a recorded search.

    A recorded one is given as RECORD:PATH, such as ``cued_shapes:seed-0/search``. Bits are bits, also where a folder
    has them as its name; such a folder is given as ``./1-0``.
    """
    if isinstance(scheme, str) and not BITS.fullmatch(scheme):
        if scheme == "full":
            return Scheme.full(task.stages)
        if scheme == "none":
            return Scheme.none(task.stages)
        name, _, path = scheme.partition(":")
        if scheme and Path(scheme).is_dir():
            scheme = read_finished_run(Path(scheme), "search")[1]["scheme"]
        elif name in list_records():
            scheme = load_record(name).run(path).result["scheme"]
    return Scheme.parse(scheme, task.stages)


def read_finished_run(folder: Path, *kinds: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Configuration and result of a finished run of one of the kinds.

    Raises:
        FileNotFoundError: if it is no run folder.
        ValueError: if it is another kind of run, or not finished, or a file in it is damaged.
    """
    wanted = f"{' or '.join(kinds)} run"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no run folder (it has no config.json); give the folder of a {wanted}")
    config = read_config(folder)
    kind = config["kind"]
    if kind not in kinds:
        raise ValueError(f"{folder} holds a {kind} run, expected a {wanted}")
    if not (folder / "result.json").is_file():
        raise ValueError(f"the {kind} run in {folder} is not finished; give its command again, and it will go on")
    return config, read_json(folder / "result.json")


def load_network(folder: Path | str) -> Network:
    """The network that ``ean supernet`` or ``ean retrain`` trained into a run folder: on the CPU, in eval mode.

    Args:
        folder: of the run. A retrained network comes as it was trained: pruned to its scheme, not fused.

    Raises:
        FileNotFoundError: if it is no run folder, or has no weights.
        ValueError: if it is another kind of run, or not finished, or its weights are damaged or another network's.
    """
    folder = Path(folder)
    config, _ = read_finished_run(folder, "supernet", "retrain")
    return trained_network(config, load_weights(folder / "weights.safetensors"), f"the weights in {folder}")


def trained_network(config: Mapping[str, Any], weights: Mapping[str, Any], what: str) -> Network:
    """The network of a supernet's or retraining's configuration, with its weights; `what` names them in an error."""
    task = rebuild(Task, config["task"]).untrained()
    scheme = Scheme.parse(config["scheme"], task.stages) if "scheme" in config else None
    net = task.network(task.classes_of(weights), scheme, config.get("share", "stage"))
    check_state_dict(weights, net.state_dict(), what)
    net.load_state_dict(weights)
    return net.eval()
