"""The batch path: a release's answers to a file or folder of rows, by an actor pool of Ray Data, written as Parquet.

What is written holds the columns that were read and, of a classifier, `answer` (string, the likeliest label) and
`confidence` (float32, its probability); of a language model `completion` (string) and `finish_reason` ("stop" or
"length"). An actor opens the release as its endpoint does (`predict_actor.py`), so the answers are the endpoint's. A
language model takes the likeliest token at every step (temperature 0): the same rows have the same answers.

A row that the endpoint would refuse (blank, or longer than the context) is kept with nulls for an answer, and counted.
Rows keep their order, over the files in the order of their names. The columns of a .csv stay the strings that they are.
The result is written beside its place and becomes visible in one step; an object store has no rename, so there the
files are copied and `_SUCCESS` is written last.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from deshi.jobs import session
from deshi.jobs.data.conversations import COLUMNS
from deshi.jobs.data.rows import SUFFIXES
from deshi.jobs.finished_run import EVIDENCE_FILE, release_of
from deshi.jobs.predict_actor import ADDED, PROMPTS_A_SLOT, Asked, Classifies, Writes
from deshi.jobs.session import Machine
from deshi.jobs.storage import Storage
from deshi.serve import release
from deshi.serve.chat_template import Prompts
from deshi.serve.contract import MAX_ROWS
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.table import engine, generation_engine
from deshi.serve.serving import MODEL_FOLDER, ServedTarget, Serving

DONE_FILE = "_SUCCESS"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What was written, and how many of its rows have no answer."""

    place: str
    rows: int
    unanswered: int


def predict(
    run: str,
    source: str,
    out: str,
    *,
    column: str | None,
    target: str | None,
    max_tokens: int,
    despite_verdict: bool,
) -> Predicted:
    """Answers the rows of `source` and writes them into the new folder `out`.

    Args:
        run: a run's folder or its release; every node must be able to read it.
        source: a .parquet, .jsonl or .csv, or a folder of files of one of these; a path or URI.
        out: a path or URI.
        column: what is answered; None: what the recipe calls it.
        target: a target of the release; None: the first.
        max_tokens: of a completion.
        despite_verdict: use a release that was not accepted.

    Raises:
        ValueError: in one sentence, before any work, for a release that may not be used or rows that cannot be read.
    """
    folder = release_of(run).resolve()
    serving, _ = release.opened(folder, despite_verdict=despite_verdict)
    served = serving.target(target)
    _refuse_missing_engines(serving, served)
    known, chats = _as_trained(folder, serving)
    read, place = _opened(source), _opened(out)
    files = _files(read, source)
    columns = _columns(read, files[0])
    asked = Asked(
        folder=str(folder),
        target=target,
        column=column or known,
        chats=chats,
        max_tokens=max_tokens,
        despite_verdict=despite_verdict,
    )
    _refuse_columns(files[0], columns, asked, serving.task)
    with _in_one_step(place) as work:
        _answer(read, files, list(columns), asked, serving, served, place, work)
        rows, unanswered = _counted(place, work, ADDED[serving.task][0])
        if not rows:
            raise ValueError(f"{source} holds no rows; there is nothing to answer")
    return Predicted(place=out, rows=rows, unanswered=unanswered)


def _refuse_missing_engines(serving: Serving, served: ServedTarget) -> None:
    find = engine if serving.task == "classify" else generation_engine
    for build in served.build_ids:
        if (reason := find(engine_of(build)).missing()) is not None:
            raise ValueError(f"engine {engine_of(build)!r} cannot run here: {reason}")


def _as_trained(folder: Path, serving: Serving) -> tuple[str, bool]:
    """The column that the recipe reads, and whether a text is a user's turn, from the evidence beside the release."""
    path = folder.parent / EVIDENCE_FILE
    told = json.loads(path.read_text(encoding="utf-8"))["recipe"] if path.is_file() else {}
    data: Mapping[str, Any] = told.get("data", {})
    if serving.task == "classify":
        return data.get("text", "text"), False
    chats = Prompts.load(folder / MODEL_FOLDER).chats
    format = data.get("format", "messages" if chats else "text")
    column: str = data.get("column") or COLUMNS[format]
    return column.split(",")[0].strip(), chats and format == "messages"


def _opened(uri: str) -> Storage:
    storage = Storage(uri)
    try:
        storage.filesystem.get_file_info(storage.root)
    except Exception as error:  # of pyarrow's or fsspec's, by the scheme
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{uri} cannot be reached ({reason}); check the address and its credentials") from None
    return storage


def _files(read: Storage, source: str) -> list[str]:
    """The files to read, sorted, all of one kind."""
    info = read.filesystem.get_file_info(read.root)
    if info.type == pafs.FileType.NotFound:
        raise ValueError(f"{source} does not exist; check the path")
    found = [read.root]
    if info.type == pafs.FileType.Directory:
        inside = read.filesystem.get_file_info(pafs.FileSelector(read.root, recursive=True))
        found = sorted(one.path for one in inside if one.is_file and not one.base_name.startswith((".", "_")))
    kinds = sorted({_suffix(path) for path in found})
    if len(kinds) != 1 or kinds[0] not in SUFFIXES:
        holds = "nothing" if not kinds else " and ".join(kind or "files without a suffix" for kind in kinds)
        raise ValueError(f"{source} holds {holds}; rows are read from files of one kind of {', '.join(SUFFIXES)}")
    return found


def _columns(read: Storage, path: str) -> dict[str, Any]:
    """The columns of the first file: name -> Arrow type, from its schema or its first row."""
    with read.filesystem.open_input_file(path) as file:
        if _suffix(path) == ".parquet":
            try:
                schema = pq.read_schema(file)
            except pa.ArrowException as error:
                raise ValueError(f"{path} is not a whole Parquet file ({error}); write it again") from None
            return dict(zip(schema.names, schema.types, strict=True))
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            if _suffix(path) == ".csv":
                return dict.fromkeys(next(csv.reader(lines), []), pa.string())
            first = json.loads(next((line for line in lines if line.strip()), "{}"))
            return {name: pa.array([value]).type for name, value in first.items()}
        except (ValueError, AttributeError, pa.ArrowInvalid) as error:
            raise ValueError(f"the first row of {path} cannot be read ({error}); mend it") from None


def _refuse_columns(path: str, columns: Mapping[str, Any], asked: Asked, task: str) -> None:
    if asked.column not in columns:
        raise ValueError(
            f"{path} has no column {asked.column!r}; it has {', '.join(map(repr, columns)) or 'none'}: name the column "
            "to answer with --column"
        )
    if taken := next((name for name in ADDED[task] if name in columns), None):
        raise ValueError(f"{path} has a column {taken!r}, which is where the answers go; rename it")
    kind = columns[asked.column]
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    is_talk = task == "generate" and pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    if not (is_text or is_talk):
        wanted = "texts" if task == "classify" else "texts or lists of {role, content}"
        raise ValueError(f"column {asked.column!r} of {path} holds {kind}; {wanted} are answered: name another column")


def _answer(
    read: Storage,
    files: Sequence[str],
    columns: Sequence[str],
    asked: Asked,
    serving: Serving,
    served: ServedTarget,
    place: Storage,
    work: str,
) -> None:
    """Reads, asks and writes, all at once, block by block."""
    machine = session.connect()
    import ray.data

    context = ray.data.DataContext.get_current()
    ordered, context.execution_options.preserve_order = context.execution_options.preserve_order, True
    cpus, replicas = _pool(machine, served.threads)
    classifies = serving.task == "classify"
    try:
        _rows(read, files, columns).map_batches(
            Classifies if classifies else Writes,
            fn_constructor_args=(asked,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=replicas),  # as the rows need
            batch_size=MAX_ROWS if classifies else PROMPTS_A_SLOT * served.slots,
            batch_format="pyarrow",
            num_cpus=cpus,
        ).write_datasink(_ordered_parquet(place, work))
    finally:
        context.execution_options.preserve_order = ordered


def _ordered_parquet(place: Storage, work: str) -> Any:
    """A sink that writes one file a task, named in the order of the tasks.

    `write_parquet` writes the blocks of a task by several threads, which may swap them.
    """
    import ray.data

    class OrderedParquet(ray.data.Datasink):
        def write(self, blocks: Iterable[Any], ctx: Any) -> None:
            tables = [pa.table(block) for block in blocks if len(block)]
            if tables:
                whole = pa.concat_tables(tables, promote_options="default")
                pq.write_table(whole, f"{work}/{ctx.task_idx:06}.parquet", filesystem=place.filesystem)

    return OrderedParquet()


def _pool(machine: Machine, threads: int) -> tuple[int, int]:
    """CPUs of an actor, as many as the target has threads where a node has them, and how many actors fit."""
    each = max(1, machine.cpus // machine.nodes)
    cpus = min(threads, each)
    return cpus, max(1, each // cpus * machine.nodes)


def _rows(read: Storage, files: Sequence[str], columns: Sequence[str]) -> Any:
    import ray.data
    from pyarrow import csv as arrow_csv

    paths, common = list(files), {"filesystem": read.filesystem, "partitioning": None, "file_extensions": None}
    kind = _suffix(paths[0])
    if kind == ".parquet":
        return ray.data.read_parquet(paths, **common)
    if kind == ".jsonl":
        return ray.data.read_json(paths, **common)
    return ray.data.read_csv(
        paths,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        **common,
    )


@contextmanager
def _in_one_step(place: Storage) -> Iterator[str]:
    """A folder beside `place` that takes its name when all is written, and is gone if anything fails."""
    files, root = place.filesystem, place.root.rstrip("/")
    if files.get_file_info(root).type != pafs.FileType.NotFound:
        raise ValueError(f"{place.uri} exists; remove it, or give a folder that does not exist yet")
    parent, _, name = root.rpartition("/")
    work = f"{parent}/.{name}.{os.getpid()}"
    try:
        files.create_dir(work, recursive=True)
    except OSError as error:
        raise ValueError(f"{place.uri} cannot be written ({error}); give a folder that you may write to") from None
    try:
        yield work
        if place.is_local:
            files.move(work, root)
            return
        pafs.copy_files(work, root, files, files)
        with files.open_output_stream(f"{root}/{DONE_FILE}") as done:
            done.write(b"")
    finally:
        if files.get_file_info(work).type == pafs.FileType.Directory:
            files.delete_dir(work)


def _counted(place: Storage, work: str, column: str) -> tuple[int, int]:
    """Rows, and rows without an answer."""
    rows = unanswered = 0
    for one in place.filesystem.get_file_info(pafs.FileSelector(work)):
        with place.filesystem.open_input_file(one.path) as file:
            answers = pq.read_table(file, columns=[column])[column]
        rows += len(answers)
        unanswered += answers.null_count
    return rows, unanswered


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
