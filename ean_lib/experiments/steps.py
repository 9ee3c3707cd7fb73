"""The paper's pipeline as four functions, each of which owns one run folder: supernet, search, retrain, measure.

Every function can be called again with the same arguments: a finished run is read back, an unfinished one goes on.
Under ``accelerate launch`` all processes call them; the first one writes. Each is also a command of ``ean``, whose
options are its arguments; there, ``--preset`` and ``--dataset`` set the defaults (:mod:`ean_lib.experiments.recipes`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import PartialState
from tqdm import tqdm
from tyro.conf import OmitArgPrefixes as Flat
from tyro.conf import Positional, Suppress, arg

from ean_lib.checks import check
from ean_lib.data import Data
from ean_lib.experiments.task import Share, Task
from ean_lib.learning.evaluate import evaluate
from ean_lib.learning.measure import measure
from ean_lib.learning.training import TrainConfig, train
from ean_lib.networks import AttentionResNet, check_state_dict
from ean_lib.runs import Run, Runtime, load_weights, read_json, rebuild, to_json, write_atomically
from ean_lib.runs.records import list_records, load_record
from ean_lib.schemes import Scheme
from ean_lib.search import SearchConfig, SearchResult, search
from ean_lib.supernet import Scorer


def open_run(out: Path, kind: str, task: Task, runtime: Runtime, seed: int, **config: Any) -> tuple[Run, Data]:
    """The folder of a run of that kind, whose result all of these decide, and the task's data."""
    data = task.data(runtime.data_dir)
    task.network(data.num_classes)  # a network that cannot be built leaves no run folder behind
    origin = {"seed": seed, "data": data.train.checksum}
    full = {"kind": kind, "task": dataclasses.asdict(task), **origin, **config}
    state = PartialState(cpu=runtime.device == "cpu")
    with state.main_process_first():
        return Run(out, full, origin, writer=state.is_main_process), data


def result_of(run: Run) -> dict[str, Any]:
    """The result, once the first process has written it."""
    PartialState().wait_for_everyone()
    return run.result


def run_supernet(
    task: Flat[Task], config: Flat[TrainConfig], seed: int = 0, out: Path = Path("runs/supernet"),
    runtime: Flat[Runtime] = Runtime(),
) -> dict[str, Any]:  # fmt: skip
    """Train a supernet: one network in which every scheme shares the weights.

    Example: ean supernet --dataset cued_shapes --attention se --out runs/supernet

    Args:
        seed: Of the weights, the order of images and the sampled schemes.
        out: The run folder.
    """
    config = dataclasses.replace(config, seed=seed)
    run, data = open_run(out, "supernet", task, runtime, seed, train=dataclasses.asdict(config))
    if not run.finished:
        net = task.network(data.num_classes, seed=seed)
        history = train(net, data, config, "random", run, device=runtime.device, progress=runtime.progress)
        full = evaluate(net, data.val, Scheme.full(net.stages), device=runtime.device)
        run.finish({"epochs": len(history), "last": history[-1], "val_accuracy_full": full}, net.state_dict())
    return result_of(run)


def run_search(
    supernet: Path, config: Flat[SearchConfig] = SearchConfig(), seed: int = 0, out: Path = Path("runs/search"),
    runtime: Flat[Runtime] = Runtime(), recalibrate: int | None = 1000,
) -> SearchResult:  # fmt: skip
    """Search a trained supernet for the scheme to retrain.

    Example: ean search --supernet runs/supernet --method reinforce --out runs/search

    Args:
        supernet: The folder of a finished supernet.
        seed: Of the search.
        out: The run folder. A reward is computed once, also across a crash.
        recalibrate: Re-estimate BatchNorm for each scheme from this many training images; None keeps the supernet's
            statistics.
    """
    made, _ = read_finished_run(supernet, "supernet")
    task, net = rebuild(Task, made["task"]), load_network(supernet)
    config = dataclasses.replace(config, seed=seed)
    weights = hashlib.sha256((supernet / "weights.safetensors").read_bytes()).hexdigest()
    settings = {"search": dataclasses.asdict(config), "recalibrate": recalibrate, "supernet": weights}
    run, data = open_run(out, "search", task, runtime, seed, **settings)
    if not run.finished and PartialState().is_main_process:
        known = {Scheme.parse(line["scheme"], net.stages): line["accuracy"] for line in run.read_metrics()}
        calibration = {"recalibrate": recalibrate, "augment": made["train"]["augment"]}
        scorer = Scorer(net, data, **calibration, device=runtime.device, known=known)

        most = min(config.max_evaluations, 2 ** len(net.scheme))
        bar = tqdm(total=most, initial=len(known), disable=not runtime.progress, unit="scheme", leave=False)

        def reward(schemes: Sequence[Scheme]) -> list[float]:
            before = len(scorer.known)
            values = scorer(schemes)
            if len(scorer.known) > before:
                run.write_metrics({"scheme": str(s), "accuracy": value} for s, value in scorer.known.items())
                bar.update(len(scorer.known) - before)
            return values

        with bar:
            if most == 2 ** len(net.scheme):  # one walk over all costs less than asking step by step
                reward(list(Scheme.all_of(net.stages)))
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
    task: Flat[Task], scheme: Annotated[Scheme | str, arg(constructor=str)], config: Flat[TrainConfig], seed: int = 0,
    out: Path = Path("runs/retrain"), runtime: Flat[Runtime] = Runtime(), share: Share = "stage",
    form: Suppress[str | None] = None, hold_out: Suppress[bool] = False,
) -> dict[str, Any]:  # fmt: skip
    """Train one scheme from scratch on all training images and evaluate it once on the test images.

    Example: ean retrain --dataset cued_shapes --scheme 10-00-00 --out runs/ean

    Example: ean retrain --dataset cifar10 --scheme runs/search --seed 1 --out runs/ean-1

    Args:
        scheme: Bits such as 110-000-001, or full, or none (the backbone), or the folder of a finished search.
        seed: Of the weights and the order of images.
        out: The run folder.
        share: stage: one module per stage (Share, EAN); none: one per block (Org).
        form: what a report calls it; None: by its connections, one of `FORMS`.
        hold_out: train without the search-val images, and record their accuracy beside the test part's, but no
            weights: a row of a table to choose from. Otherwise no choice is left to make, and they are trained on.
    """
    scheme, config = read_scheme(scheme, task), dataclasses.replace(config, seed=seed)
    if form is None:
        full = {"none": "org-full", "stage": "share-full"}[share]
        form = "backbone" if not scheme.connected else full if scheme.connected == len(scheme) else "ean"
    named = {"scheme": str(scheme), "share": share, "form": form} | ({"hold_out": True} if hold_out else {})
    run, data = open_run(out, "retrain", task, runtime, seed, train=dataclasses.asdict(config), **named)
    if not run.finished:
        net = task.network(data.num_classes, scheme, share, seed)
        split = data.train if hold_out else data.train.join(data.val)
        history = train(net, data, config, scheme, run, split=split, device=runtime.device, progress=runtime.progress)
        accuracy = evaluate(net, data.test, device=runtime.device)
        outcome = {"test_accuracy": accuracy, "test_images": len(data.test), "last": history[-1]}
        if hold_out:
            outcome["val_accuracy"] = evaluate(net, data.val, device=runtime.device)
        run.finish({**named, "connected": scheme.connected, **outcome}, None if hold_out else net.state_dict())
    return result_of(run)


def run_measure(
    folders: Positional[tuple[Path, ...]], runtime: Flat[Runtime] = Runtime(), batch_size: int = 64, rounds: int = 20
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
    for folder, task in zip(folders, tasks, strict=True):
        if dataclasses.replace(task, attention=tasks[0].attention) != tasks[0]:
            raise ValueError(f"{folder} has another task than {folders[0]}; measure networks of one backbone together")
    data = tasks[0].data(runtime.data_dir)
    backbone = tasks[0].network(data.num_classes, Scheme.none(tasks[0].stages))
    networks = {str(folder): load_network(folder) for folder in folders}
    measured = measure(networks, backbone, (batch_size, 3, *data.image_size), device=runtime.device, rounds=rounds)
    costs = {folder: dataclasses.asdict(cost) for folder, cost in measured.items()}
    for folder, cost in costs.items():
        write_atomically(Path(folder) / "measure.json", to_json(cost))
    return costs


def read_scheme(scheme: Scheme | str, task: Task) -> Scheme:
    """The scheme that a user means by bits, full, none, the folder of a finished search, or a recorded search.

    A recorded one is given as RECORD:PATH, such as ``cued_shapes:seed-0/search``.
    """
    if scheme in ("full", "none"):
        return getattr(Scheme, scheme)(task.stages)
    if isinstance(scheme, str) and scheme and Path(scheme).is_dir():
        scheme = read_finished_run(Path(scheme), "search")[1]["scheme"]
    elif isinstance(scheme, str) and scheme.partition(":")[0] in list_records():
        name, _, path = scheme.partition(":")
        scheme = load_record(name).run(path).result["scheme"]
    return Scheme.parse(scheme, task.stages)


def read_finished_run(folder: Path, *kinds: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Configuration and result of a finished run of one of the kinds; a clear error where there is none."""
    wanted, file = f"{' or '.join(kinds)} run", folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no run folder (it has no config.json); give the folder of a {wanted}")
    config = read_json(file)
    if (kind := config.get("kind")) not in kinds:
        raise ValueError(f"{folder} holds a {kind} run, expected a {wanted}")
    if not (folder / "result.json").is_file():
        raise ValueError(f"the {kind} run in {folder} is not finished; give its command again, and it will go on")
    return config, read_json(folder / "result.json")


def load_network(folder: Path | str) -> AttentionResNet:
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


def trained_network(config: Mapping[str, Any], weights: Mapping[str, Any], what: str) -> AttentionResNet:
    """The network of a supernet's or retraining's configuration, with its weights; `what` names them in an error."""
    task = rebuild(Task, config["task"])
    scheme = Scheme.parse(config["scheme"], task.stages) if "scheme" in config else None
    classes = weights.get("fc.bias", torch.empty(1)).numel()  # where it is missing, the check below says so
    net = task.network(classes, scheme, config.get("share", "stage"))
    check_state_dict(weights, net.state_dict(), what)
    net.load_state_dict(weights)
    return net.eval()
