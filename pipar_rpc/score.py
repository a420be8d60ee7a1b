"""How good the selector's choices are: python -m pipar_rpc.score GRID_FOLDER CHOICE_FOLDER [more folders]

Reads the runs of experiment=selector_score (every P and N that was run) and of experiment=selector_choice
(whose selection.csv has the best N for each P), and computes, as the paper's equation 15,

    score = T(optimal) / T(selected)

for the choice among all P, and among all N for each single P. T is the median over the runs of a cell, of an
epoch's time. Writes score.txt and score.png into the first folder.
"""

import argparse
from pathlib import Path

from pipar_rpc.base.command import run_command
from pipar_rpc.base.errors import UserError
from pipar_rpc.results.runs import load
from pipar_rpc.results.scores import as_table, draw, grids, scores


def main() -> None:
    """Reads the folders, writes the table and the picture, and shows the table."""
    parser = argparse.ArgumentParser(prog="python -m pipar_rpc.score", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders with results.csv somewhere below")
    parser.add_argument("--iterations", type=int, default=100, help="of an epoch (default 100)")
    args = parser.parse_args()
    runs = load(args.folders)
    found, missing = scores(runs, args.iterations)
    if not found:
        raise UserError("no run with a selection.csv whose choice was run too: experiment=selector_choice")
    text = "\n".join(as_table(found, grids(runs, args.iterations)))
    (args.folders[0] / "score.txt").write_text(text + "\n")
    draw(found).savefig(args.folders[0] / "score.png", dpi=110)
    print(text, *(f"not run: {place}" for place in missing), args.folders[0] / "score.txt", sep="\n")


if __name__ == "__main__":
    run_command(main)
