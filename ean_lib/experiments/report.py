"""Compare runs: one row per form, mean and standard deviation over seeds, and the cost beside the accuracy.

Only runs of one recipe share a row: what differs in anything but the seed (epochs, number of objects, version of the
data ...) has a row of its own, and the row says in what. Nothing depends on the order in which runs are named.
"""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd

from ean_lib.checks import check, check_number
from ean_lib.experiments.forms import FORMS
from ean_lib.experiments.task import Task
from ean_lib.learning.training import TrainConfig
from ean_lib.runs import read_json, rebuild, write_atomically
from ean_lib.runs.records import FinishedRun, Record, read_runs

GROUP = ["dataset", "backbone", "attention", "form", "recipe"]
COST = ["extra_parameters", "macs", "time_increment", "device"]
COLUMNS = ["dataset", "backbone", "form", "attention", "scheme", "connected", "seed", "accuracy", *COST, "recipe"]
BENCH = "bench"  # trained without the search-val images: a row of a truth table, which no form is compared with
# Of a run's configuration, what a column shows, or what follows from the seed.
NO_RECIPE = ("kind", "task", "train", "seed", "scheme", "form", "folded", "format", "hold_out")
ATTENTION = ("attention_module", "attention_options", "rd_ratio")  # what the column "attention" shows beside its name
CHECKSUMS = ("data", "val_data", "test_data", "initial_weights")
SHOWN_ELSEWHERE = (*CHECKSUMS, "dataset", "backbone", "attention", *ATTENTION, "share")


def collect(sources: Sequence[Path | str | Record]) -> pd.DataFrame:
    """One row for each finished retraining in the folders or below them, or in records (`ean_lib.load_record`).

    Columns: dataset, backbone, attention (with its rd_ratio, where one was given), form, scheme, connected, seed,
    accuracy (% of the test images); from ``ean measure``, where it was run: extra_parameters, macs, time_increment (a
    fraction, the median of the increments within a round) and device; and recipe: in what the run differs from others
    of its dataset and backbone, such as "epochs 3", empty where in nothing. A network of a truth table has the form
    "bench".

    Raises:
        FileNotFoundError: if there is no such folder or record.
        ValueError: if there is no finished retraining, or a file of one is not what it should be.
    """
    return _collect(sources)[0]


def _collect(sources: Sequence[Path | str | Record]) -> tuple[pd.DataFrame, list[str]]:
    """The rows, and what a reader of their table must know: what was left out, what counted once."""
    rows = [_row(run) for source in sources for run in read_runs(source) if _is_retraining(run.config)]
    if not rows:
        advice = "give the folders of `ean run` or `ean retrain`, and let them finish"
        raise ValueError(f"no finished retraining in {', '.join(map(str, sources)) or 'no folder'}; {advice}")
    # Measured ones first: of two that are the same, the one that says more is kept.
    rows.sort(key=lambda row: (row["identity"], row["device"] is None, row["path"]))
    distinct: dict[str, dict[str, Any]] = {}
    for row in rows:
        distinct.setdefault(row["identity"], row)
    _say_in_what_recipes_differ(list(distinct.values()))
    notes = []
    repeated = len(rows) - len(distinct)
    if repeated:
        notes.append(f"Counted once: {repeated} more with the configuration, seed and result of one that is shown.")
    unfinished = sorted({path for source in sources for path in _unfinished(source)})
    if unfinished:
        notes.append(f"Left out, as they are not finished: {', '.join(unfinished)}.")
    frame = pd.DataFrame(distinct.values(), columns=COLUMNS)
    order = ["dataset", "backbone", "attention", "form", "recipe", "seed", "scheme", "accuracy"]
    return frame.sort_values(order, kind="stable", ignore_index=True), notes


def _is_retraining(config: Any) -> bool:
    return isinstance(config, dict) and config.get("kind") == "retrain"


def _row(run: FinishedRun) -> dict[str, Any]:
    """What the table shows of a run; and beside it, under `recipe`, all that makes it the run that it is."""
    try:
        config, result, cost = run.config, run.result, run.measure or {}
        task, train = asdict(rebuild(Task, config["task"])), asdict(rebuild(TrainConfig, config["train"]))
        if not result["connected"]:
            # The backbone is the same, whatever it is the backbone of.
            nothing = {name: getattr(Task, name) for name in (*ATTENTION, "start")}
            task |= {"attention": "none", **nothing}
        del train["seed"]
        others = {name: value for name, value in config.items() if name not in NO_RECIPE}
        row = {name: cost.get(name) for name in COST} | {
            "path": run.path,
            "dataset": task["dataset"],
            "backbone": task["backbone"],
            "form": BENCH if config.get("hold_out") else result["form"],
            "attention": _attention(task),
            "scheme": result["scheme"],
            "connected": result["connected"],
            "seed": config["seed"],
            "accuracy": result["test_accuracy"],
            "options": task | train | others,
        }
        # The increment within a round, as the chapters and the explorer show it: what slows the machine slows both.
        row["time_increment"] = cost.get("paired_increment", cost.get("time_increment"))
        for name in ("form", "scheme"):
            check(name, row[name], isinstance(row[name], str), "a text")
        for name in ("connected", "seed", "accuracy"):
            check_number(name, row[name])
        for name in ("extra_parameters", "macs", "time_increment"):
            if row[name] is not None:
                check_number(name, row[name], low=-inf)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"the files of the run {run.path} are not those of a finished retraining"
        raise ValueError(f"{what} ({type(error).__name__}: {error}); redo it, or leave it out") from None
    identity = {name: row[name] for name in ("form", "scheme", "seed", "accuracy")}
    identity["options"] = {name: value for name, value in row["options"].items() if name not in CHECKSUMS[1:]}
    return row | {"identity": json.dumps(identity, sort_keys=True)}


def _attention(task: dict[str, Any]) -> str:
    """The attention of a table's row: its name, and its options where some were given."""
    options = [] if task["rd_ratio"] is None else [f"rd_ratio {task['rd_ratio']:g}"]
    options += [option.replace("=", " ", 1) for option in task["attention_options"]]
    return f"{task['attention']} ({', '.join(options)})" if options else task["attention"]


def _say_in_what_recipes_differ(rows: Sequence[dict[str, Any]]) -> None:
    """Write into `recipe` of each row in what it differs from others of its dataset and backbone."""
    for alike in _grouped(rows, ["dataset", "backbone"]):
        names = [name for name in _differing(alike) if name not in SHOWN_ELSEWHERE]
        for row in alike:
            row["recipe"] = _in_words(row, names)
    # Another share, or other images under the same name, tells rows apart where all else is the same.
    for alike in _grouped(rows, GROUP):
        names = [name for name in _differing(alike) if name in ("share", *CHECKSUMS)]
        for row in alike:
            row["recipe"] = ", ".join(filter(None, (row["recipe"], _in_words(row, names))))


def _grouped(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The rows, in lists of those that are the same in all these columns."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), []).append(row)
    return list(groups.values())


def _differing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The options that are not the same in all rows."""
    names = dict.fromkeys(name for row in rows for name in row["options"])
    values = {name: [row["options"].get(name) for row in rows] for name in names}
    for name in CHECKSUMS:  # older runs noted fewer of them
        values[name] = [value for value in values.get(name, []) if value is not None]
    return [name for name in names if any(value != values[name][0] for value in values[name])]


def _in_words(row: dict[str, Any], names: Iterable[str]) -> str:
    parts = []
    for name in names:
        value = row["options"].get(name)
        if name in CHECKSUMS:
            value = str(value)[:8]  # of a checksum
        elif isinstance(value, list | tuple):
            value = "-".join(map(str, value))
        parts.append(f"{name} {'default' if value is None else value}")
    return ", ".join(parts)


def _unfinished(source: Path | str | Record) -> list[str]:
    if isinstance(source, Record) or not Path(source).is_dir():
        return []
    files = [file for file in Path(source).rglob("config.json") if not (file.parent / "result.json").exists()]
    return [str(file.parent) for file in files if _is_retraining(read_json(file))]


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and number of seeds of each form, in the order of the paper's tables.

    A form has one row for each recipe. It has a row for each scheme, too, where one seed has several, so that they are
    not what was found with different seeds; random schemes share a row.
    """
    if "recipe" not in frame:
        frame = frame.assign(recipe="")
    ordered = pd.Categorical(frame.form, [*FORMS, *sorted(set(frame.form) - set(FORMS))])
    frame = frame.assign(form=ordered)
    schemes_of_a_seed = frame.groupby([*GROUP, "seed"], observed=True).scheme.transform("nunique")
    most_of_a_seed = schemes_of_a_seed.groupby([frame[name] for name in GROUP], observed=True).transform("max")
    apart = ((most_of_a_seed > 1) | (frame.form == BENCH)) & (frame.form != "random")
    groups = frame.assign(apart=frame.scheme.where(apart, "")).groupby([*GROUP, "apart"], observed=True)
    table = groups[["connected", "accuracy", "extra_parameters", "macs"]].mean()
    table["std"], table["time_increment"] = groups.accuracy.std(), groups.time_increment.median()
    table["scheme"], table["schemes"] = groups.scheme.first(), groups.scheme.nunique()
    table["runs"], table["seeds"] = groups.size(), groups.seed.nunique()
    return table.reset_index().drop(columns="apart").astype({"form": str})


def to_markdown(frame: pd.DataFrame) -> str:
    """The summary as a Markdown table; what was not measured shows as a dash."""

    def show(value: float, template: str) -> str:
        return "–" if pd.isna(value) else template.format(value)

    table = summarise(frame)
    columns: dict[str, list[str]] = {name: [] for name in ("data", "network", "attention", "form")}
    for row in table.itertuples():
        spread = "" if pd.isna(row.std) else f" ± {row.std:.2f}"
        cells = {
            "data": row.dataset,
            "network": row.backbone,
            "attention": row.attention,
            "form": row.form,
            "differs in": row.recipe or "–",
            "scheme": f"`{row.scheme}`" if row.schemes == 1 else f"{row.schemes} schemes",
            "connected": f"{row.connected:.3g}",
            "accuracy, % (mean ± std)": f"{row.accuracy:.2f}{spread}",
            "runs (seeds)": f"{row.runs} ({row.seeds})",
            "extra parameters": show(row.extra_parameters, "{:,.0f}"),
            "MACs, M": show(row.macs / 1e6, "{:.2f}"),
            "time increment, %": show(100 * row.time_increment, "{:.1f}"),
        }
        for name, cell in cells.items():
            columns.setdefault(name, []).append(cell)
    if not table.recipe.any():
        del columns["differs in"]
    names = list(columns)
    numbers = names.index("accuracy, % (mean ± std)")
    rule = ["---"] * numbers + ["---:"] * (len(names) - numbers)
    lines = [names, rule, *zip(*columns.values(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(frame: pd.DataFrame) -> bytes:
    """Accuracy against relative time increment (connected blocks where it was not measured), as a PNG."""
    # Drawing takes a second to import, and most commands draw nothing.
    from matplotlib.figure import Figure

    from ean_lib.plots import accuracy_against_cost

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    accuracy_against_cost(axes, summarise(frame))
    axes.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _check_ours(out: Path) -> None:
    """`ValueError` where a report would replace somebody else's files: ours has the table of runs beside it."""
    csv = out / "report.csv"
    ours = csv.is_file() and csv.read_text(errors="replace").startswith("dataset,backbone,form,")
    for name in ("report.md", "report.csv", "report.png"):
        if (out / name).exists() and not ours:
            raise ValueError(f"{out / name} is no report of ours; choose another --out; nothing was changed")


def write_report(folders: tuple[Path, ...], out: Path = Path("runs/report")) -> str:
    """Compare finished retrainings: report.md, report.csv (every run) and report.png; the table is returned.

    Runs that differ in anything but the seed are different rows, and the row says in what.

    Example: ean report runs/cifar10-se runs/cifar10-dia --out runs/report

    Args:
        folders: Folders of `ean run` or `ean retrain`; they are searched to the bottom. Or names of records.
        out: Where the report is written.
    """
    frame, notes = _collect(folders)
    _check_ours(out)
    table = to_markdown(frame) + "".join(f"\n{note}\n" for note in notes)
    write_atomically(out / "report.md", table)
    write_atomically(out / "report.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_atomically(out / "report.png", plot(frame))
    return table
