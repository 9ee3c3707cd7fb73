"""Recorded experiments: what finished runs gave, in one compact file each, read by one function.

    from ean_lib import load_record

    record = load_record("cued_shapes")        # or "runs/mine/record.jsonl.gz", which tools/pack_record.py wrote
    print(record)                              # cued_shapes: 35 runs, seeds 0 1 2 3 4; recorded on Intel(R) Xeon(R) ...
    record.runs                                # a row per run: kind, form, scheme, connected, seed, accuracy, costs ...
    record.runs.query("form == 'ean'").accuracy.mean()
    record.scores["seed-0"]                    # what each scheme scored in the supernet of that search, %
    record.curves.query("form == 'backbone'")  # a row per epoch: path, form, seed, epoch, step, images, loss, accuracy
    record.searches["seed-0"].scheme           # a SearchResult for each search
    record.machines, record.threads, record.hours, record.seeds, record.commands, record.origin
    record.run("seed-0/ean").config            # and .result, .metrics, .sessions, .measure: as in the run's folder
    record.network(form="ean", seed=0)         # the trained network of the run, on the CPU, in eval mode
    record.files["pictures/00012-dog.png"]     # the path of a file that lies beside the record
    recorded_file("explorer/cued_shapes.json") # the path of another file that is shipped: an explorer's table ...

`ean_lib.experiments.report.collect` takes a record, or its name, where it takes a folder; :func:`read_runs` gives the
finished runs of either.

A record is two files and a folder, below ``ean_lib/recorded/``:

    NAME.jsonl.gz   one JSON object a line and run: path, config, sessions (of its provenance), result, metrics,
                    measure (null where it was not measured) and weights (a file in NAME/, or null)
    NAME.json       its card: format, what, licence, commands, hardware, hours, seeds, runs, the lines' sha256,
                    and files with their sha256
    NAME/           weights as safetensors, pictures

``tools/pack_record.py`` writes it from run folders; the same folders give the same bytes. Nothing of a run is left
out but its checkpoint, and weights that the tool was not asked for. Truth tables (`load_bench`) lie beside the
records, with cards of the same kind.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ean_lib.checks import check_choice
from ean_lib.runs.config import is_ours, read_config
from ean_lib.runs.files import Record as JsonObject
from ean_lib.runs.files import load_weights, read_json, read_json_lines, to_json, write_atomically
from ean_lib.schemes import Scheme
from ean_lib.search import SearchResult

if TYPE_CHECKING:
    from ean_lib.networks import AttentionResNet

RECORDED = Path(__file__).parent.parent / "recorded"
FORMAT = 1  # of cards and lines; what reads a newer one says so
LICENCE = "CC BY 4.0"
PARTS = ("config", "sessions", "result", "metrics", "measure", "weights")


@dataclass(frozen=True)
class FinishedRun:
    """One finished run, from its folder or from a record.

    Attributes:
        path: of its folder, from the folder of the experiment.
        config: all that decided the result, as config.json has it.
        sessions: its provenance: versions, device, threads, command, commit, and seconds of each time that it ran.
        result: what came out.
        metrics: epochs of a training, scores of a search.
        measure: parameters, MACs and times, where ``ean measure`` was run.
        weights: the file of its weights, where they are kept.
    """

    path: str
    config: JsonObject
    sessions: Sequence[JsonObject]
    result: JsonObject
    metrics: Sequence[JsonObject]
    measure: JsonObject | None = None
    weights: Path | None = None

    @property
    def kind(self) -> str:
        """supernet, search, retrain, scores or costs."""
        return self.config["kind"]

    @property
    def group(self) -> str:
        """Which of the experiment's folders it lies in: ``cifar10-se/seed-0`` for ``cifar10-se/seed-0/search``."""
        return self.path.rpartition("/")[0]

    @property
    def seconds(self) -> float:
        """How long it ran, over all its sessions."""
        return sum(session["seconds"] for session in self.sessions)

    @property
    def row(self) -> dict[str, Any]:
        """What a table shows of it: `Record.runs` has a row of these for each run."""
        task, train = self.config["task"], self.config.get("train", {})
        cost = dict(self.measure or {})
        low, high = cost.get("paired_quartiles", (None, None))
        last = self.sessions[-1] if self.sessions else {}
        scheme = self.result.get("scheme")
        accuracy = self.result.get("test_accuracy")
        return {
            "group": self.group,
            "kind": self.kind,
            "form": self.result.get("form"),
            "dataset": task["dataset"],
            "backbone": task["backbone"],
            "attention": task["attention"],
            "rd_ratio": task.get("rd_ratio"),
            "share": self.result.get("share"),
            "scheme": scheme,
            "connected": None if scheme is None else scheme.count("1"),
            "seed": self.config["seed"],
            "accuracy": accuracy,
            "val_accuracy": self.result.get("val_accuracy"),
            "test_images": self.result.get("test_images"),
            "epochs": train.get("epochs"),
            "batch_size": train.get("batch_size"),
            "lr": train.get("lr"),
            "warmup": train.get("warmup"),
            "sampler": train.get("sampler"),
            "parameters": cost.get("parameters"),
            "extra_parameters": cost.get("extra_parameters"),
            "macs": cost.get("macs"),
            "extra_macs": cost.get("extra_macs"),
            "median_ms": cost.get("median_ms"),
            "time_increment": cost.get("time_increment"),
            "paired_increment": cost.get("paired_increment"),
            "paired_low": low,
            "paired_high": high,
            "rounds": cost.get("rounds"),
            "measured_on": cost.get("device"),
            "device": last.get("device"),
            "threads": last.get("threads"),
            "seconds": round(self.seconds, 1),
            "command": last.get("command"),
            "weights": self.weights is not None,
        }

    def network(self) -> AttentionResNet:
        """The network that was trained: on the CPU, in eval mode; pruned to its scheme where it was retrained.

        Raises:
            ValueError: if no weights of it are kept, or they are another network's.
        """
        from ean_lib.experiments.steps import trained_network  # runs know of no networks until one is asked for

        if self.weights is None:
            raise ValueError(f"no weights are kept of the {self.kind} run {self.path}; redo it: {self._command}")
        return trained_network(self.config, load_weights(self.weights), f"the weights of {self.path}")

    @property
    def _command(self) -> str:
        return self.sessions[-1]["command"].replace("cli.py", "ean", 1)


@dataclass(frozen=True)
class Record:
    """A recorded experiment; see `load_record`.

    Attributes:
        name: of the experiment.
        card: what it is, how it was made and under which licence.
        finished: its runs, in the order of their paths.
        files: by name, the files that lie beside it: weights and pictures.
    """

    name: str
    card: JsonObject
    finished: Sequence[FinishedRun] = field(repr=False)
    files: Mapping[str, Path] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name}: {len(self.finished)} runs, seeds {' '.join(map(str, self.seeds))}; {self.origin}"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run, by its path.

        Columns: group (the folder of the path), kind, form, dataset, backbone, attention, rd_ratio, share, scheme,
        connected, seed, accuracy and val_accuracy (%), test_images; epochs, batch_size, lr, warmup and sampler of
        its training; parameters, extra_parameters, macs, extra_macs, median_ms, time_increment, paired_increment
        with its quartiles paired_low and paired_high (all increments are fractions), rounds and measured_on, where
        it was measured; device, threads, seconds, command, and whether its weights are kept.
        """
        return pd.DataFrame([run.row for run in self.finished], index=pd.Index(self._paths, name="path"))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row per epoch of every training: path, group, kind, form, scheme, seed, epoch, step, images seen, lr, loss
        and accuracy on the training images (%)."""
        rows = []
        for run in self.finished:
            if "train" in run.config:
                about = {name: run.row[name] for name in ("group", "kind", "form", "scheme", "seed")}
                batch = run.config["train"]["batch_size"]
                rows += [{"path": run.path, **about, "images": e["step"] * batch, **e} for e in run.metrics]
        return pd.DataFrame(rows)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """What every scheme scored, in % of the search-val images: a row per scheme, a column per search.

        The columns are the groups of the searches, such as ``seed-0`` or ``cifar10-se/seed-0``; the rows are in the
        order of `Scheme.all_of`, by the schemes' text. NaN where a search did not score a scheme.
        """
        columns = {}
        for run in self.finished:
            if run.kind == "search":
                columns[run.group] = {line["scheme"]: line["accuracy"] for line in run.metrics}
        table = pd.DataFrame(columns)
        return table.reindex(sorted(table.index, key=lambda text: Scheme.parse(text).bits)).rename_axis("scheme")

    @cached_property
    def searches(self) -> dict[str, SearchResult]:
        """The result of each search, by its group."""
        searches = [run for run in self.finished if run.kind == "search"]
        return {run.group: SearchResult.from_json(json.dumps(run.result)) for run in searches}

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return sorted({run.config["seed"] for run in self.finished})

    @property
    def machines(self) -> list[str]:
        """The devices it was computed on."""
        return sorted({session["device"] for session in self._sessions})

    @property
    def threads(self) -> list[int]:
        """How many threads the runs had."""
        return sorted({session["threads"] for session in self._sessions})

    @property
    def hours(self) -> float:
        """How long all its runs took."""
        return sum(run.seconds for run in self.finished) / 3600

    @property
    def commands(self) -> list[str]:
        """The commands that redo it, in the order of their first runs; those that differ in seeds only are one."""
        return commands_of(self.finished)

    @property
    def origin(self) -> str:
        """Where it was recorded, in words: ``recorded on …; 5 seeds, 1.2 hours``."""
        count = len(self.seeds)
        return f"recorded on {' / '.join(self.machines)}; {count} seed{'s' * (count != 1)}, {self.hours:.1f} hours"

    def run(self, path: str | None = None, **columns: Any) -> FinishedRun:
        """The run of a path, such as ``seed-0/ean``, or the one with these values in `runs`: ``form="ean", seed=0``.

        Raises:
            ValueError: if there is none, or there are several; the error lists some.
        """
        if path is not None:
            columns = {"path": path}
        table = self.runs.reset_index()
        for column, value in columns.items():
            check_choice("column", column, list(table))
            table = table[table[column] == value]
        if len(table) != 1:
            wanted = ", ".join(f"{column} {value!r}" for column, value in columns.items()) or "nothing said of it"
            have = _some(self._paths if table.empty else list(table.path))
            count = "no run" if table.empty else f"{len(table)} runs"
            raise ValueError(f"the record {self.name} has {count} with {wanted}; expected one of {have}")
        return self.finished[table.index[0]]

    def network(self, path: str | None = None, **columns: Any) -> AttentionResNet:
        """The network of a run that is named as in `run`; the column `weights` says of which they are kept."""
        return self.run(path, **columns).network()

    def select(self, prefix: str) -> Record:
        """The part of it whose paths begin with a prefix, such as ``wide-plain/`` or ``cifar10-se/seed-0/``.

        Raises:
            ValueError: if no path does.
        """
        chosen = [run for run in self.finished if run.path.startswith(prefix)]
        if not chosen:
            raise ValueError(f"the record {self.name} has no run below {prefix!r}; it has {_some(self._paths)}")
        return Record(self.name, self.card, chosen, self.files)

    @cached_property
    def _paths(self) -> list[str]:
        return [run.path for run in self.finished]

    @property
    def _sessions(self) -> list[JsonObject]:
        return [session for run in self.finished for session in run.sessions]


def load_record(name: str | Path) -> Record:
    """Read a recorded experiment, and check its checksum.

    Args:
        name: of a record that comes with the library (`list_records`), or the path of a ``.jsonl.gz`` file that
            ``tools/pack_record.py`` wrote.

    Raises:
        ValueError: if there is no record of that name, or it is not what its card describes.
        FileNotFoundError: if there is no file at that path.
    """
    file = Path(name)
    if file.suffix != ".gz":
        if str(name) not in list_records():
            known = f"known are {', '.join(list_records())}"
            raise ValueError(f"there is no record {str(name)!r}; {known}, or the path of a .jsonl.gz file")
        file = RECORDED / f"{name}.jsonl.gz"
    card, content = read_with_card(file)
    name = file.name.removesuffix(".jsonl.gz")
    beside = file.with_name(name)
    runs = [_from_line(line, beside, file) for line in content.decode().splitlines()]
    return Record(name, card, runs, {text: beside / text for text in card["files"]})


def list_records() -> list[str]:
    """The names of the records that come with the library."""
    return sorted(path.name.removesuffix(".jsonl.gz") for path in RECORDED.glob("*.jsonl.gz"))


def recorded_file(name: str) -> Path:
    """The path of a file that comes with the library below ``recorded/``, such as ``explorer/cued_shapes.json``.

    Raises:
        ValueError: if there is none of that name.
    """
    files = sorted(p.relative_to(RECORDED).as_posix() for p in RECORDED.rglob("*") if p.is_file())
    if name not in files:
        close = [file for file in files if file.startswith(name.partition("/")[0])] or files
        raise ValueError(f"there is no recorded file {name!r}; there are {_some(close)}")
    return RECORDED / name


def read_with_card(file: Path) -> tuple[dict[str, Any], bytes]:
    """The card of a recorded file, NAME.json beside it, and its content, decompressed where it ends in .gz.

    Raises:
        FileNotFoundError: if one of the two is not there.
        ValueError: if the content is not what the card describes, or of a newer format.
    """
    card_file = file.with_name(file.name.partition(".")[0] + ".json")
    for path in (file, card_file):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; a record is a file and its card, side by side")
    card, content = read_json(card_file), file.read_bytes()
    if card.get("format", 1) > FORMAT:
        raise ValueError(f"{file} has format {card['format']}, and this ean_lib reads up to {FORMAT}; update ean_lib")
    try:
        content = gzip.decompress(content) if file.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}); restore it") from None
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ValueError(f"{file} is not the file that its card describes (sha256); restore it")
    return card, content


def read_runs(source: Path | str | Record) -> Iterator[FinishedRun]:
    """The finished runs in a folder or below it, or of a record, or of a record's name; no unfinished ones.

    Raises:
        FileNotFoundError: if there is neither a folder nor a record of that name.
        ValueError: if a file of a run is not what it should be.
    """
    if isinstance(source, Record):
        yield from source.finished
    elif Path(source).is_dir():
        for file in sorted(Path(source).rglob("config.json")):
            if (file.parent / "result.json").exists() and is_ours(read_json(file)):
                yield read_run(file.parent, Path(source))
    elif str(source) in list_records() or str(source).endswith(".jsonl.gz"):
        yield from load_record(source).finished
    else:
        raise FileNotFoundError(f"there is no folder {source}, and no record of that name ({_some(list_records())})")


def read_run(folder: Path, top: Path | None = None) -> FinishedRun:
    """A finished run from its folder; its path is told from the folder `top`, its own name without one."""
    provenance, measure, metrics = folder / "provenance.json", folder / "measure.json", folder / "metrics.jsonl"
    weights = folder / "weights.safetensors"
    path = folder.name if top is None else folder.relative_to(top).as_posix()
    return FinishedRun(
        path=path if path != "." else folder.resolve().name,
        config=read_config(folder),
        sessions=read_json(provenance)["sessions"] if provenance.exists() else [],
        result=read_json(folder / "result.json"),
        metrics=read_json_lines(metrics) if metrics.exists() else [],
        measure=read_json(measure) if measure.exists() else None,
        weights=weights if weights.exists() else None,
    )


def write_record(
    into: Path, runs: Sequence[FinishedRun], what: str, files: Mapping[str, Path] = {}, licence: str = LICENCE
) -> Record:
    """Write runs as a record: `into`.jsonl.gz, its card, and its files. The same runs give the same bytes.

    Args:
        into: the path of the record, without a suffix.
        runs: in any order; their paths differ.
        what: it is, in a sentence, for the card.
        files: more files to lie beside it, by name. Weights are kept of the runs that have them.
        licence: for the card.

    Raises:
        ValueError: if two runs have one path, or there is none.
    """
    runs = sorted(runs, key=lambda run: run.path.split("/"))
    paths = [run.path for run in runs]
    if not runs or len(set(paths)) < len(paths):
        raise ValueError(f"a record has runs of different paths, at least one; these have {_some(paths)}")
    kept = {f"{run.path}.safetensors": run.weights for run in runs if run.weights is not None}
    beside, checksums = dict(sorted((kept | dict(files)).items())), {}
    for name, source in beside.items():
        content = source.read_bytes()
        write_atomically(into / name, content)
        checksums[name] = hashlib.sha256(content).hexdigest()
    content = "".join(_to_line(run) + "\n" for run in runs).encode()
    sessions = [session for run in runs for session in run.sessions]
    machines = {f"{s['device']}, {s['threads']} threads, torch {s['versions']['torch']}" for s in sessions}
    card = {
        "format": FORMAT,
        "what": what,
        "licence": licence,
        "commands": commands_of(runs),
        "hardware": sorted(machines),
        "hours": round(sum(run.seconds for run in runs) / 3600, 2),
        "seeds": sorted({run.config["seed"] for run in runs}),
        "runs": len(runs),
        "sha256": hashlib.sha256(content).hexdigest(),
        "files": checksums,
    }
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=packed, mtime=0) as file:  # no name, no time: the same bytes
        file.write(content)
    write_atomically(into.with_name(f"{into.name}.jsonl.gz"), packed.getvalue())
    write_atomically(into.with_name(f"{into.name}.json"), to_json(card))
    return load_record(into.with_name(f"{into.name}.jsonl.gz"))


def commands_of(runs: Sequence[FinishedRun]) -> list[str]:
    """The commands that redo runs, in the order of their first ones; those that differ in seeds only are one.

    ``--seeds`` takes all the seeds at once; where a command has one ``--seed``, SEED stands for it, and a comment
    says which there were.
    """
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seed = run.config["seed"]
        for session in run.sessions:
            command = session["command"].replace("cli.py", "ean", 1)
            command = re.sub(r"book/results/(\w+)/", r"\1:", command)  # where records were folders once
            command = re.sub(r"--seeds( \d+)+", "--seeds SEEDS", command)
            if re.search(r"--seed \d", command):
                command = re.sub(rf"(--seed |/seed-){seed}\b", r"\1SEED", command)
            seeds.setdefault(command, set()).add(seed)
    commands = []
    for command, used in seeds.items():
        text = " ".join(map(str, sorted(used)))
        if "SEEDS" in command:
            commands.append(command.replace("SEEDS", text))
        elif len(used) == 1:
            commands.append(command.replace("SEED", text))
        else:
            commands.append(f"{command}  # SEED: {text}")
    return commands


def _to_line(run: FinishedRun) -> str:
    line = {"path": run.path} | {name: getattr(run, name) for name in PARTS}
    line["weights"] = None if run.weights is None else f"{run.path}.safetensors"
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False)


def _from_line(text: str, beside: Path, file: Path) -> FinishedRun:
    line = json.loads(text)
    try:
        weights = line["weights"]
        return FinishedRun(**line | {"weights": None if weights is None else beside / weights})
    except (KeyError, TypeError) as error:
        wanted = ", ".join(("path", *PARTS))
        raise ValueError(f"a line of {file} has other keys than {wanted} ({error}); pack the record anew") from None


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join([*names[:most], "…"] if len(names) > most else names)
