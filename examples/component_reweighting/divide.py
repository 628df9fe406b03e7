"""Split one data file of a task into a training and a test file at random.

    python examples/component_reweighting/divide.py val.jsonl data/boolq    # train.jsonl and test.jsonl
    python examples/component_reweighting/divide.py ARC-Easy-Dev.jsonl data/arc_easy --arc

Some copies of data sets (BoolQ, WiC, ARC-Easy) are released with one split. The seed determines the division.

With --arc, an item {"question": {"stem", "choices"}, "answerKey"} becomes {"text", "label"}. The text contains the options,
each after its letter. The label is the letter of the correct option. Items without exactly four options are left out and
counted.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from icl_lens.corpora import records
from icl_lens.errors import InputError

LETTERS = "ABCD"


def flat(item: dict) -> dict | None:
    """Convert a multiple-choice item to text and label; return None unless it has exactly four options."""
    choices = item["question"]["choices"]
    if len(choices) != len(LETTERS):
        return None
    options = " ".join(f"{letter}: {choice['text']}" for letter, choice in zip(LETTERS, choices, strict=True))
    right = [choice["label"] for choice in choices].index(item["answerKey"])  # some items number their options 1 to 4
    return {"text": f"{item['question']['stem']} {options}", "label": LETTERS[right]}


def _flat_line(source: Path, number: int, item: dict) -> dict | None:
    try:
        return flat(item)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source}, line {number}: not a multiple-choice item of ARC (question: stem, choices; answerKey); omit --arc"
        ) from error


def divide(source: Path, folder: Path, seed: int, arc: bool) -> tuple[int, int, int]:
    """Write half of the rows to train.jsonl and the other half to test.jsonl.

    Returns:
        The number of training rows, of test rows, and of rows that were left out.

    Raises:
        InputError: The file cannot be read, or a line has an unexpected format.
    """
    rows = list(records.json_objects(str(source), records.read_text(source)))
    kept = [row for number, item in rows if (row := _flat_line(source, number, item) if arc else item) is not None]
    random.Random(seed).shuffle(kept)
    half = len(kept) // 2
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", kept[:half]), ("test", kept[half:])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return half, len(kept) - half, len(rows) - len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="input file (.jsonl)")
    parser.add_argument("folder", type=Path, help="output folder of train.jsonl and test.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arc", action="store_true", help="the input contains multiple-choice items of ARC")
    options = parser.parse_args()
    try:
        train, test, left_out = divide(options.source, options.folder, options.seed, options.arc)
    except InputError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{options.folder}: {train} rows for training, {test} for testing, {left_out} excluded")


if __name__ == "__main__":
    main()
