"""Trains the first 20 steps of shipped models again, more than 1 % of their 1415, and holds the loss against the saved curve.

  tools/train/reproduce.py --train WORK/train.npy --valid WORK/valid.npy [MODEL ...]
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "models"
STEPS = 20         # the first row of every curve is their mean
TOLERANCE = 0.002  # other processors and versions of PyTorch add in another order


def first_row(curve: Path) -> dict[str, str]:
    with open(curve) as file:
        return next(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="none: all that ship")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    args = parser.parse_args()
    names = args.models or sorted(path.parent.name for path in MODELS.glob("*/loss_curve.csv"))
    differ = []
    for name in names:
        saved = first_row(MODELS / name / "loss_curve.csv")
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([sys.executable, HERE / "train.py", HERE / "configs" / f"{name}.json", "--train", args.train,
                            "--valid", args.valid, "--out", out, "--steps", str(STEPS)],
                           stdout=subprocess.DEVNULL, check=True)
            again = first_row(Path(out) / "loss_curve.csv")
        off = abs(float(again["train_loss"]) - float(saved["train_loss"]))
        print(f"{name}: steps 1 to {saved['step']}: saved {saved['train_loss']}, again {again['train_loss']}", flush=True)
        if saved["step"] != str(STEPS) or off > TOLERANCE:
            differ.append(name)
    if differ:
        raise SystemExit(f"other losses than the saved ones: {', '.join(differ)}")


if __name__ == "__main__":
    main()
