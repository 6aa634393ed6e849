"""`deshi diff URL RUN`: what moving from an old service to a run's release means for those who ask it.

    <storage>/<name>/diff.jsonl   a row a request: outcome, statuses, milliseconds, keys and values that differ
                     diff.json    the figures over them; written last

The release is served on the loopback interface as `deshi serve --speaks` serves it, whatever its verdict. The rows hold
values of replies, which may be customer text: they lie on this disk alone, readable by their owner, masked
(`masking.py`) unless `--unmasked` is given. No header's value is written anywhere.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from deshi.jobs import diff_shown, finished_run
from deshi.jobs.evidence.felt.endpoint import running
from deshi.jobs.evidence.migration import diff_figures, replay
from deshi.jobs.evidence.migration.diff_schema import DIFF_FILE, ROWS_FILE, Diff
from deshi.jobs.storage import file_digest
from deshi.serve.durable import in_one_step
from deshi.serve.mapping import WireMapping
from deshi.serve.release import MANIFEST_FILE, Manifest
from deshi.serve.serving import Serving

OWN_ROUTE = {"classify": "/classify", "generate": "/v1/chat/completions"}


def run(
    url: str,
    run: str,
    requests: Path,
    *,
    mapping: Path | None = None,
    headers: Sequence[str] = (),
    ignore: Sequence[str] = (),
    tolerance: float = 0.0,
    rate: float | None = None,
    target: str | None = None,
    out: Path | None = None,
    show: bool = False,
    unmasked: bool = False,
) -> Diff:
    """Replays the requests, writes rows and figures, and prints a table.

    Args:
        url: of the old service; with a path it is asked there, else at the mapping's path.
        run: whose release is compared.
        requests: a file of `replay.requests_of`.
        mapping: of the old service; None: the requests are ours already.
        headers: `name: value`, sent to the old service only.
        ignore: keys that may differ.
        tolerance: by which numbers may differ.
        rate: most requests a second; None: as fast as they are answered, one by one.
        target: of the release; the first one if left out.
        out: the file of rows, the figures beside it as .json; None: in the run's folder.
        show: print values that differ.
        unmasked: leave personal data in the values as it stands.

    Raises:
        ValueError: in one sentence, before anything is written.
    """
    replay.refuse_url(url)
    if not math.isfinite(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance {tolerance} is no distance; give 0 or more")
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"rate {rate} is none; give the most requests a second, e.g. 2")
    told = [replay.header_of(said, number) for number, said in enumerate(headers, 1)]
    asked = replay.requests_of(requests)
    folder, manifest, _ = finished_run.verified(run)
    released = finished_run.release_of(run)
    serving = Serving.read(released)
    serving.target(target)
    target = target or next(iter(serving.targets))
    rows_path, diff_path = _places(folder, out)
    path = OWN_ROUTE[serving.task] if mapping is None else WireMapping.read(mapping, serving).path
    with replay.Service(url, path=path, headers=told) as old:
        old.greet()
        options = ["--despite-verdict", *([] if mapping is None else ["--speaks", str(mapping.resolve())])]
        with (
            running(released, target, module=_module(manifest, target), options=options) as server,
            replay.Service(server.url, path=path) as new,
        ):
            new.greet()
            rows = [
                diff_figures.row_of(pair, tolerance=tolerance, ignore=set(ignore), masked=not unmasked)
                for pair in replay.replay(asked, old, new, rate=rate)
            ]
    confidence = manifest.kpi.quality.confidence
    keys = diff_figures.keys_of(rows)
    mapping_keys, review_rows = diff_figures.work_of(rows, keys)
    lines = b"".join(_json(row).encode(errors="backslashreplace") for row in rows)
    found = Diff(
        name=manifest.name,
        release=file_digest(released / MANIFEST_FILE),
        decision=manifest.decision,
        target=target,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        url=old.url,
        requests={file_digest(requests): requests.name},
        mapping={} if mapping is None else {file_digest(mapping): mapping.name},
        rows_file={hashlib.sha256(lines).hexdigest(): rows_path.name},
        tolerance=tolerance,
        confidence=confidence,
        ignored=tuple(sorted(set(ignore))),
        outcomes=diff_figures.outcomes_of(rows, confidence=confidence),
        statuses=diff_figures.statuses_of(rows),
        old=diff_figures.latency_of(
            [(row.old_status, row.old_ms) for row in rows], confidence=confidence, where="over the network as it is"
        ),
        new=diff_figures.latency_of(
            [(row.new_status, row.new_ms) for row in rows],
            confidence=confidence,
            where="on this machine's loopback",
        ),
        keys=keys,
        mapping_keys=mapping_keys,
        review_rows=review_rows,
    )
    with in_one_step(rows_path, private=True) as partial:
        partial.write_bytes(lines)
    content = _json(found, indent=2).encode(errors="backslashreplace")
    if out is None:
        finished_run.keep(run, DIFF_FILE, content)
    else:
        with in_one_step(diff_path) as partial:
            partial.write_bytes(content)
    diff_shown.show(found, rows, rows_path, show=show)
    return found


def _places(folder: Path, out: Path | None) -> tuple[Path, Path]:
    """Where rows and figures go.

    Raises:
        ValueError: if something lies there that is no earlier diff: evidence is not written over.
    """
    rows = folder / ROWS_FILE if out is None else out
    if rows.suffix != ".jsonl":
        raise ValueError(f"--out {rows} must end in .jsonl; the figures are written beside it as .json")
    if not rows.parent.is_dir():
        raise ValueError(f"{rows.parent} is no folder; make it, or give another --out")
    figures = rows.with_suffix(".json")
    if (rows.exists() or figures.exists()) and not _is_diff(figures):
        there = figures if figures.exists() else rows
        raise ValueError(f"{there} is there and is no earlier diff; move it away, or give another --out")
    return rows, figures


def _is_diff(path: Path) -> bool:
    try:
        Diff.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False
    return True


def _module(manifest: Manifest, target: str) -> str:
    """As the target is served, and was measured."""
    with_ray = any(each.name == target and each.serves_with_ray for each in manifest.targets)
    return "deshi.serve.run" if with_ray else "deshi.serve.process"


def _json(model: BaseModel, indent: int | None = None) -> str:
    """With half surrogate pairs, which another service may send and pydantic's own writer refuses."""
    return json.dumps(model.model_dump(), ensure_ascii=False, indent=indent) + "\n"
