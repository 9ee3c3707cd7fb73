"""Compare runs: one row per form, mean and standard deviation over seeds, and the cost beside the accuracy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ean_lib.runs import read_json, write_atomically

ORDER = ["backbone", "org-full", "share-full", "ean", "random", "late"]
GROUP = ["dataset", "backbone", "attention", "form"]


def collect(folders: Sequence[Path]) -> pd.DataFrame:
    """One row for each finished retraining in the folders or below them.

    Columns: dataset, backbone, attention, form, scheme, connected, seed, accuracy (% of the test images), and from
    ``ean measure``, where it was run: extra_parameters, macs, time_increment (a fraction) and device.

    Raises:
        ValueError: if there is no finished retraining.
    """
    rows: list[dict[str, Any]] = []
    for top in folders:
        if not Path(top).exists():
            raise FileNotFoundError(f"there is no folder {top}")
        for file in sorted(Path(top).rglob("config.json")):
            config, folder = read_json(file), file.parent
            if config.get("kind") != "retrain" or not (folder / "result.json").exists():
                continue
            result, task = read_json(folder / "result.json"), config["task"]
            row = {"dataset": task["dataset"], "backbone": task["backbone"], "form": result["form"]}
            row["attention"] = "none" if result["connected"] == 0 else task["attention"]
            row |= {"scheme": result["scheme"], "connected": result["connected"], "seed": config["seed"]}
            row["accuracy"] = result["test_accuracy"]
            if (folder / "measure.json").exists():
                cost = read_json(folder / "measure.json")
                row |= {key: cost[key] for key in ("extra_parameters", "macs", "time_increment", "device")}
            rows.append(row)
    if not rows:
        raise ValueError(
            f"no finished retraining in {', '.join(map(str, folders)) or 'no folder'}; give the folders of `ean run` or"
            " `ean retrain`, and let them finish"
        )
    frame = pd.DataFrame(rows)
    for key in ("extra_parameters", "macs", "time_increment", "device"):
        if key not in frame:
            frame[key] = float("nan")
    return frame.drop_duplicates([*GROUP, "scheme", "seed"])


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and number of seeds of each form, in the order of the paper's tables."""
    frame = frame.assign(_order=frame.form.map({form: i for i, form in enumerate(ORDER)}).fillna(len(ORDER)))
    groups = frame.groupby(["dataset", "backbone", "attention", "_order", "form"], sort=True)
    table = groups.agg(
        schemes=("scheme", "nunique"),
        scheme=("scheme", "first"),
        connected=("connected", "mean"),
        runs=("accuracy", "size"),
        seeds=("seed", "nunique"),
        accuracy=("accuracy", "mean"),
        std=("accuracy", "std"),
        extra_parameters=("extra_parameters", "mean"),
        macs=("macs", "mean"),
        time_increment=("time_increment", "median"),
    )
    return table.reset_index().drop(columns="_order")


def to_markdown(frame: pd.DataFrame) -> str:
    """The summary as a Markdown table; what was not measured shows as a dash."""

    def show(value: float, template: str) -> str:
        return "–" if pd.isna(value) else template.format(value)

    head = [
        "data",
        "network",
        "attention",
        "form",
        "scheme",
        "connected",
        "accuracy, % (mean ± std)",
        "runs (seeds)",
    ]
    lines = [[*head, "extra parameters", "MACs, M", "time increment, %"], ["---"] * 6 + ["---:"] * 5]
    for row in summarise(frame).itertuples():
        scheme = f"`{row.scheme}`" if row.schemes == 1 else f"{row.schemes} schemes"
        spread = "" if pd.isna(row.std) else f" ± {row.std:.2f}"
        cells = [row.dataset, row.backbone, row.attention, row.form, scheme, f"{row.connected:.3g}"]
        cells += [
            f"{row.accuracy:.2f}{spread}",
            f"{row.runs} ({row.seeds})",
            show(row.extra_parameters, "{:,.0f}"),
        ]
        lines.append([*cells, show(row.macs / 1e6, "{:.2f}"), show(100 * row.time_increment, "{:.1f}")])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(frame: pd.DataFrame) -> bytes:
    """Accuracy against relative time increment (connected blocks where it was not measured), as a PNG."""
    from matplotlib.figure import Figure

    table = summarise(frame)
    timed = table.time_increment.notna().all()
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    markers = dict(zip(ORDER, "Xsov^P", strict=True))
    colours = [
        "#0072B2",
        "#D55E00",
        "#009E73",
        "#CC79A7",
        "#E69F00",
        "#56B4E9",
    ]  # Okabe & Ito: safe for colour-blind eyes
    attentions = list(dict.fromkeys(table.attention))
    for row in table.itertuples():
        x = 100 * row.time_increment if timed else row.connected
        error = None if pd.isna(row.std) else row.std
        colour = colours[attentions.index(row.attention) % len(colours)]
        label = f"{row.attention} {row.form}"
        axes.errorbar(
            x,
            row.accuracy,
            error,
            marker=markers.get(row.form, "D"),
            color=colour,
            ls="",
            capsize=3,
            label=label,
        )
    axes.set_xlabel("relative time increment (%)" if timed else "connected blocks")
    axes.set_ylabel("test accuracy (%), mean ± std")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def write_report(folders: Sequence[Path], out: Path) -> str:
    """Write report.md, report.csv (every run) and report.png into out, and return the table."""
    frame = collect(folders)
    table = to_markdown(frame)
    write_atomically(out / "report.md", table)
    write_atomically(out / "report.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_atomically(out / "report.png", plot(frame))
    return table
