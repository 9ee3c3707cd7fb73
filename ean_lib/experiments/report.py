"""Compare runs: one row per form, mean and standard deviation over seeds, and the cost beside the accuracy."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ean_lib.experiments.forms import FORMS
from ean_lib.runs import write_atomically
from ean_lib.runs.records import Record, read_runs

GROUP = ["dataset", "backbone", "attention", "form"]
COST = ["extra_parameters", "macs", "time_increment", "device"]
COLUMNS = ["dataset", "backbone", "form", "attention", "scheme", "connected", "seed", "accuracy", *COST]


def collect(sources: Sequence[Path | str | Record]) -> pd.DataFrame:
    """One row for each finished retraining in the folders or below them, or in records (`ean_lib.load_record`).

    Columns: dataset, backbone, attention (with its rd_ratio, where one was given), form, scheme, connected, seed,
    accuracy (% of the test images), and from ``ean measure``, where it was run: extra_parameters, macs,
    time_increment (a fraction) and device.

    Raises:
        FileNotFoundError: if there is no such folder or record.
        ValueError: if there is no finished retraining.
    """
    rows = []
    for source in sources:
        for run in read_runs(source):
            if run.kind != "retrain":
                continue
            config, result, cost = run.config, run.result, run.measure or {}
            row = config["task"] | cost | result | {"seed": config["seed"], "accuracy": result["test_accuracy"]}
            name = row["attention"] + (f" (rd_ratio {row['rd_ratio']:g})" if row.get("rd_ratio") else "")
            rows.append(row | {"attention": name if result["connected"] else "none"})
    if not rows:
        advice = "give the folders of `ean run` or `ean retrain`, and let them finish"
        raise ValueError(f"no finished retraining in {', '.join(map(str, sources)) or 'no folder'}; {advice}")
    return pd.DataFrame(rows, columns=COLUMNS).drop_duplicates([*GROUP, "scheme", "seed"])


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and number of seeds of each form, in the order of the paper's tables."""
    ordered = pd.Categorical(frame.form, [*FORMS, *sorted(set(frame.form) - set(FORMS))])
    groups = frame.assign(form=ordered).groupby(GROUP, observed=True)
    table = groups[["connected", "accuracy", "extra_parameters", "macs"]].mean()
    table["std"], table["time_increment"] = groups.accuracy.std(), groups.time_increment.median()
    table["scheme"], table["schemes"] = groups.scheme.first(), groups.scheme.nunique()
    table["runs"], table["seeds"] = groups.size(), groups.seed.nunique()
    return table.reset_index().astype({"form": str})


def to_markdown(frame: pd.DataFrame) -> str:
    """The summary as a Markdown table; what was not measured shows as a dash."""

    def show(value: float, template: str) -> str:
        return "–" if pd.isna(value) else template.format(value)

    head = ["data", "network", "attention", "form", "scheme", "connected", "accuracy, % (mean ± std)", "runs (seeds)"]
    lines = [[*head, "extra parameters", "MACs, M", "time increment, %"], ["---"] * 6 + ["---:"] * 5]
    for row in summarise(frame).itertuples():
        scheme = f"`{row.scheme}`" if row.schemes == 1 else f"{row.schemes} schemes"
        spread = "" if pd.isna(row.std) else f" ± {row.std:.2f}"
        cells = [row.dataset, row.backbone, row.attention, row.form, scheme, f"{row.connected:.3g}"]
        cells += [f"{row.accuracy:.2f}{spread}", f"{row.runs} ({row.seeds})", show(row.extra_parameters, "{:,.0f}")]
        lines.append([*cells, show(row.macs / 1e6, "{:.2f}"), show(100 * row.time_increment, "{:.1f}")])
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


def write_report(folders: tuple[Path, ...], out: Path = Path("runs/report")) -> str:
    """Compare finished retrainings: report.md, report.csv (every run) and report.png; the table is returned.

    Example: ean report runs/cifar10-se runs/cifar10-dia --out runs/report

    Args:
        folders: Folders of `ean run` or `ean retrain`; they are searched to the bottom.
        out: Where the report is written.
    """
    frame = collect(folders)
    table = to_markdown(frame)
    write_atomically(out / "report.md", table)
    write_atomically(out / "report.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_atomically(out / "report.png", plot(frame))
    return table
