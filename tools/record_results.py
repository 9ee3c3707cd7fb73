"""Copy what a reader of the book needs from finished runs, and show their table in the README.

    python tools/record_results.py runs/cifar10-se runs/cifar10-sge runs/cifar10-dia --into book/results/cifar10
    python tools/record_results.py runs/cued_shapes --into book/results/cued_shapes --weights seed-0/ean

Of each run folder its configuration, metrics, result, provenance and cost are kept; weights only of the networks that
--weights names (they are large). A folder's name in --into is its own, or --into itself where the two have one name;
unfinished runs are left out, and said so. A record of supernets only has no table; the README shows those that it has
markers for.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from ean_lib.experiments.report import collect, to_markdown, write_report
from ean_lib.runs import read_json, to_json, write_atomically

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("metrics.jsonl", "config.json", "measure.json")


def record(top: Path, into: Path, weights: list[str]) -> None:
    place = into if top.name == into.name else into / top.name
    for config in sorted(top.rglob("config.json")):
        source = config.parent
        target = place / source.relative_to(top)
        if not (source / "result.json").exists():
            print(f"left out, not finished: {source}")
            continue
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
        # One line per file: a search's result holds every step.
        write_atomically(target / "result.json", json.dumps(read_json(source / "result.json")) + "\n")
        provenance = to_json(read_json(source / "provenance.json"))
        write_atomically(target / "provenance.json", provenance.replace(f"{top.resolve().parent.parent}/", ""))
        if str(target.relative_to(into)) in weights:
            shutil.copyfile(source / "weights.safetensors", target / "weights.safetensors")


def show_in_readme(into: Path) -> None:
    """Put the table, with its hardware, seeds and recipe, between the README's markers of this record, if any."""
    readme = (ROOT / "README.md").read_text()
    start, end = f"<!-- results:{into.name} -->", f"<!-- /results:{into.name} -->"
    if start not in readme:
        return
    frame = collect([into])
    folder = next(into.rglob("backbone/config.json")).parent
    session, config = read_json(folder / "provenance.json")["sessions"][-1], read_json(folder / "config.json")
    train, task = config["train"], config["task"]
    seeds = ", ".join(map(str, sorted(set(frame.seed))))
    recipe = (
        f"{train['epochs']} epochs of train and search-val, batch {train['batch_size']}, one-cycle to lr {train['lr']}"
    )
    machine = f"{session['device']}, threads of a training: {session['threads']}, torch {session['versions']['torch']}"
    text = to_markdown(frame) + (
        f"\nTest accuracy after {recipe}, stem stride {task['stem_stride']}; seeds {seeds}; {machine}. The backbone's"
        " own time increment, which would be 0, shows the noise of the timing. Drawn from"
        f" `{into.resolve().relative_to(ROOT)}/`, where each run's command and provenance are.\n"
    )
    before, after = readme.split(start)[0], readme.split(end)[1]
    write_atomically(ROOT / "README.md", f"{before}{start}\n{text}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--weights", nargs="*", default=[], help="such as cifar10-se/seed-0/ean")
    options = parser.parse_args()
    for top in options.runs:
        record(top, options.into, options.weights)
    if any(read_json(file)["kind"] == "retrain" for file in options.into.rglob("config.json")):
        write_report([options.into], options.into)
        show_in_readme(options.into)


if __name__ == "__main__":
    main()
