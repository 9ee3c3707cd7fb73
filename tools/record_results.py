"""Draw the README's tables of recorded experiments, between the markers that it has for them.

    python tools/record_results.py               all of them
    python tools/record_results.py cued_shapes

`tools/pack_record.py` records an experiment, and then calls this for it.
"""

import argparse
from pathlib import Path

from ean_lib.experiments.report import collect, to_markdown
from ean_lib.runs import write_atomically
from ean_lib.runs.records import list_records, load_record

ROOT = Path(__file__).resolve().parent.parent


def show_in_readme(name: str, readme: Path = ROOT / "README.md") -> None:
    """Put the record's table, with its hardware, seeds and recipe, between the README's markers of it, if any."""
    text = readme.read_text()
    start, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    if start not in text:
        return
    record = load_record(name)
    backbone = next(run for run in record.finished if run.result.get("form") == "backbone")
    session, train = backbone.sessions[-1], backbone.config["train"]
    recipe = f"{train['epochs']} epochs of train and search-val, batch {train['batch_size']}"
    recipe += f", one-cycle to lr {train['lr']}, stem stride {backbone.config['task']['stem_stride']}"
    seeds = ", ".join(map(str, record.seeds))
    machine = f"{session['device']}, threads of a training: {session['threads']}, torch {session['versions']['torch']}"
    table = to_markdown(collect([record])) + (
        f"\nTest accuracy after {recipe}; seeds {seeds}; {machine}. The backbone's"
        " own time increment, which would be 0, shows the noise of the timing. Drawn from"
        f' `load_record("{name}")`, which has each run\'s command and provenance.\n'
    )
    before, after = text.split(start)[0], text.split(end)[1]
    write_atomically(readme, f"{before}{start}\n{table}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of records; all without one")
    for name in parser.parse_args().names or list_records():
        show_in_readme(name)


if __name__ == "__main__":
    main()
