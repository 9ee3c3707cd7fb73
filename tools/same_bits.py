"""Does another checkout of this repository compute the same bits? A fixed set of small runs is done by both.

    git worktree add ../before COMMIT
    python tools/same_bits.py ../before                   # twenty minutes on one core
    python tools/same_bits.py ../before --only searches   # a part of it

It uses nothing but the command line, so that the two may be laid out differently: `ean run` on cued_shapes with six
forms; on CIFAR-10, where it is there, a supernet with DIA and the sandwich sampler and a retraining; and a search by
each method in the supernet of the first, with its own BatchNorm statistics. Compared are the tensors of the weights
(sha256), the results and the metrics, in all that both of them recorded. The exit code is 1 where something differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--no-progress", "--device", "cpu"]
SHAPES = [*TINY, "--dataset", "cued_shapes", "--subset", "512", "--recalibrate", "None"]
SHAPES += ["--supernet.epochs", "2", "--search.steps", "12", "--retrain.epochs", "2"]
SHAPES += ["--forms", "backbone", "org-full", "share-full", "ean", "random", "late"]
PHOTOS = [*TINY, "--dataset", "cifar10", "--subset", "256", "--attention", "dia", "--epochs", "2", "--batch-size", "64"]
SEARCH = [*TINY, "--supernet", "OUT/shapes/seed-0/supernet", "--recalibrate", "None", "--samples", "2", "--budget"]
BUDGETS = {"random": 24, "greedy": 24, "evolution": 24, "tpe": 24, "reinforce": 24, "exhaustive": 64}
# By part: the folder of a command's runs, and the command; OUT stands for the folder of all of them.
COMMANDS: dict[str, dict[str, list[str]]] = {
    "shapes": {"shapes": ["run", *SHAPES]},
    "photos": {
        "photos/supernet": ["supernet", *PHOTOS, "--sampler", "sandwich"],
        "photos/retrain": ["retrain", *PHOTOS, "--scheme", "100-010-001"],
    },
    "searches": {
        f"searches/{method}": ["search", *SEARCH, str(budget), "--method", method] for method, budget in BUDGETS.items()
    },
}
SHOWN = 3  # differences of each kind
CONFIGURATION = ("config",)  # of a search, in its result: which options there are is no result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--into", type=Path, help="a folder for the runs; what is there already is not done again")
    parser.add_argument("--only", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    if not (options.other / "ean_lib").is_dir():
        parser.error(f"{options.other} is no checkout of this repository: it has no ean_lib")
    parts = options.only if "searches" not in options.only else ["shapes", *options.only]  # a search needs a supernet
    with tempfile.TemporaryDirectory() as scratch:
        into = options.into or Path(scratch)
        folders = {}
        for name, checkout in (("other", options.other), ("here", ROOT)):
            folders[name] = into.resolve() / name
            for part in parts:
                for folder, command in COMMANDS[part].items():
                    run(checkout.resolve(), [*command, "--out", f"OUT/{folder}"], folders[name])
        return report(folders["other"], folders["here"])


def run(checkout: Path, command: list[str], out: Path) -> None:
    """Give a command in a checkout; what fails there is said, and shows as a run that one of them lacks."""
    words = [word.replace("OUT", str(out)) for word in command]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-m", "ean_lib.cli"]
    done = subprocess.run([*python, *words], cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        print(f"{out.name}: ean {command[0]} ended with {done.returncode}: {last}", flush=True)


def report(other: Path, here: Path) -> int:
    """Print a line for every run; 1 where something differs."""
    finished = {file.parent.relative_to(top) for top in (other, here) for file in top.rglob("result.json")}
    differ = 0
    for run_folder in sorted(finished):
        differences = [*compare(other / run_folder, here / run_folder)]
        differ += bool(differences)
        print(f"{run_folder!s:28} {'; '.join(differences) or 'the same'}")
    print(f"{len(finished) - differ} of {len(finished)} runs are the same")
    return int(differ > 0 or not finished)


def compare(other: Path, here: Path) -> Iterator[str]:
    """In what two run folders differ."""
    for folder in (other, here):
        if not (folder / "result.json").exists():
            yield f"only one of them has it, not {folder.parts[-3]}"
            return
    weights = [folder / "weights.safetensors" for folder in (other, here)]
    if weights[0].exists() or weights[1].exists():
        sums = [checksum(file) for file in weights]
        if sums[0] != sums[1]:
            yield f"weights {sums[0][:12]}, here {sums[1][:12]}"
    results = [json.loads((folder / "result.json").read_text()) for folder in (other, here)]
    yield from list(different(*results))[:3]
    metrics = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (other, here)
    ]
    yield from list(different(*metrics, "metrics"))[:3]


def checksum(weights: Path) -> str:
    """sha256 of all tensors with their names, whatever else stands in the file."""
    if not weights.exists():
        return "none"
    digest = hashlib.sha256()
    with safe_open(weights, "pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def different(other: Any, here: Any, name: str = "") -> Iterator[str]:
    """Where two JSON values differ, in what both of them have."""
    if isinstance(other, dict) and isinstance(here, dict):
        for key in other:
            if key in here and key not in CONFIGURATION:
                yield from different(other[key], here[key], f"{name}.{key}".strip("."))
    elif isinstance(other, list) and isinstance(here, list) and len(other) == len(here):
        for number, pair in enumerate(zip(other, here, strict=True)):
            yield from different(*pair, f"{name}[{number}]")
    elif other != here:
        yield f"{name} {short(other)}, here {short(here)}"


if __name__ == "__main__":
    sys.exit(main())
