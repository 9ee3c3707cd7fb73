"""Pack finished runs into a record that comes with the library: see `ean_lib.runs.records` for its form.

    python tools/pack_record.py runs/cifar10-se runs/cifar10-sge runs/cifar10-dia --name cifar10 \\
        --what "CIFAR-10, three modules: each a supernet, its search and retrainings"
    python tools/pack_record.py runs/cued_shapes --name cued_shapes --weights seed-0/ean seed-0/backbone --what "…"

The record is ean_lib/recorded/NAME.jsonl.gz, its card NAME.json, and the weights that --weights names (they are large)
below NAME/. A run's path is told from the folder given here, with that folder's name before it where several are given;
unfinished runs are left out, and said so. Pictures and other --files lie below NAME/ as PLACE/file. The README's table
of the record, if it has markers for one, is drawn anew: `python tools/record_results.py NAME` does only that.
"""

import argparse
import dataclasses
from pathlib import Path

from record_results import show_in_readme

from ean_lib.runs.records import RECORDED, FinishedRun, read_runs, write_record


def collect_runs(folders: list[Path], weights: list[str]) -> list[FinishedRun]:
    """The finished runs of the folders, with the weights that are asked for.

    Raises:
        ValueError: if weights are asked for that no run has.
    """
    runs, left = [], set(weights)
    for top in folders:
        for unfinished in sorted(top.rglob("config.json")):
            if not (unfinished.parent / "result.json").exists():
                print(f"left out, not finished: {unfinished.parent}")
        for run in read_runs(top):
            path = f"{top.name}/{run.path}" if len(folders) > 1 else run.path
            kept = run.weights if path in left or "all" in weights else None
            left -= {path} if kept else set()
            runs.append(dataclasses.replace(run, path=path, weights=kept))
    if left - {"all"}:
        raise ValueError(f"there are no weights of {', '.join(sorted(left - {'all'}))}; name runs that have them")
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, searched to the bottom")
    parser.add_argument("--name", required=True, help="of the record")
    parser.add_argument("--what", required=True, help="it is, in a sentence, for its card")
    parser.add_argument("--weights", nargs="*", default=[], help="paths such as seed-0/ean, or all")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="folders of pictures, to lie beside it")
    parser.add_argument("--into", type=Path, default=RECORDED, help="the folder of records")
    options = parser.parse_args()
    files = {f"{folder.name}/{file.name}": file for folder in options.files for file in sorted(folder.iterdir())}
    runs = collect_runs(options.runs, options.weights)
    record = write_record(options.into / options.name, runs, options.what, files)
    print(record)
    if options.into == RECORDED:
        show_in_readme(options.name)


if __name__ == "__main__":
    main()
