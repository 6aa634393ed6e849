"""From a release folder to a function that answers batches: what Ray Serve and the one process have in common."""

from __future__ import annotations

import calendar
import gc
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deshi.serve import release
from deshi.serve.batching import Rows, Run
from deshi.serve.classifier import Classifier
from deshi.serve.endpoint import Info
from deshi.serve.serving import Serving


@dataclass(frozen=True, kw_only=True)
class Service:
    """A loaded release."""

    serving: Serving
    info: Info
    run: Run


def opened(folder: Path, *, target: str | None, despite_verdict: bool = False) -> Service:
    """Verifies a release, loads its engine for a target and runs it once.

    Raises:
        ValueError: if a file differs, the verdict forbids it, or the target is not in the release.
    """
    serving, manifest = release.opened(folder, despite_verdict=despite_verdict)
    info = info_of(folder, serving, target, manifest)
    classifier = Classifier.load(folder, target)

    encoder = classifier.encoder

    def run(texts: list[str]) -> Rows:
        rows = encoder.encode(texts)
        tokens = np.array([len(row) for row in rows])
        full = np.flatnonzero(tokens == encoder.max_length)  # cut, or just as long as that
        truncated = np.zeros(len(texts), dtype=bool)
        truncated[full] = [encoder.truncated([texts[index]]) > 0 for index in full]
        return Rows(probabilities=np.exp(classifier.log_probabilities_of(rows)), tokens=tokens, truncated=truncated)

    for rows in (1, 32):  # the first call of a shape allocates
        run(["warm up"] * rows)
    # What is loaded stays for ever: the collector need not walk it again while requests wait.
    gc.collect()
    gc.freeze()
    return Service(serving=serving, info=info, run=run)


def info_of(folder: Path, serving: Serving, target: str | None, manifest: release.Manifest | None) -> Info:
    """What a service says about itself, whatever its task.

    Raises:
        ValueError: if the target is not in the release.
    """
    served = serving.target(target)
    created = int(time.time())
    if manifest is not None:
        created = calendar.timegm(time.strptime(manifest.created[:19], "%Y-%m-%dT%H:%M:%S"))
    return Info(
        created=created,
        target=next(name for name, value in serving.targets.items() if value is served),
        builds=served.build_ids,
        digest=release.digest(folder) if manifest else "",
        decision=manifest.decision if manifest else "",
    )
