"""The search under Ray Tune: trials make and measure what the ladder suggests, the ledger keeps what they found.

A trial is a driver: it may start a Ray Train run of its own. Every finished trial is one fsynced line of the ledger,
and what comes next is a function of those lines alone (`ladder.suggest`), so a killed search goes on as if it had not
been killed. `Tuner.restore` is not used: it unpickles, and it runs finished trials again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from deshi.jobs.ladder import WORST, Line, Plan, params_of, suggest
from deshi.jobs.ledger import Ledger
from deshi.jobs.stages.candidate import Candidate


def run(
    plan: Plan,
    ledger: Ledger,
    evaluate: Callable[[Candidate], Line],
    *,
    concurrent: int,
    resources: dict[str, float],
    storage_path: str,
    filesystem: Any,
    said: Callable[[list[Line]], None],
    time_budget_s: float | None,
) -> list[Line]:
    """Climbs the ladder under Ray Tune and returns the ledger's lines.

    `evaluate(candidate)` runs in a trial, which may start a Ray Train run of its own; `said(lines)` shows
    progress. One trial's failure is a line with its reason and does not stop the others.
    """
    from ray import tune
    from ray.tune.search import Searcher

    def trial(config: dict[str, Any]) -> None:
        candidate = Candidate(**config["candidate"])
        began = time.perf_counter()
        try:
            line = {**evaluate(candidate), "error": None}
        except Exception as error:  # a bad candidate is a result, not the end of the search
            line = {**WORST, "error": " ".join(str(error).split())[:500] or type(error).__name__}
        tune.report({"line": json.dumps({**line, "seconds": round(time.perf_counter() - began, 3)})})

    class Ladder(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="line", mode="max")
            self.running: dict[str, Candidate] = {}

        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:
            chosen = suggest(plan, ledger.lines(), [candidate.id for candidate in self.running.values()])
            if isinstance(chosen, str):
                return Searcher.FINISHED if chosen == "stop" else None
            self.running[trial_id] = chosen
            return {"candidate": chosen.model_dump()}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            candidate = self.running.pop(trial_id)
            line = json.loads(result["line"]) if result else {**WORST, "error": "the trial's process died"}
            params = params_of(candidate, plan.space)
            line |= {"candidate": candidate.model_dump(), "rung": 1 if candidate.steps else 0}
            line |= {"params": params} if params else {}
            ledger.append(candidate.id, {"seconds": 0.0, **line})
            said(ledger.lines())

        def __reduce__(self) -> Any:
            return object, ()  # Tune pickles its searcher for `Tuner.restore`; ours has nothing to restore

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the ledger is the state."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: the ledger is the state."""

    if suggest(plan, ledger.lines(), []) == "stop":
        return ledger.lines()
    tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={},
        tune_config=tune.TuneConfig(
            search_alg=Ladder(),
            num_samples=plan.trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # a trial's process imports torch once, not once a trial
            time_budget_s=time_budget_s,
        ),
        run_config=tune.RunConfig(
            name=f"search-{time.time_ns()}", storage_path=storage_path, storage_filesystem=filesystem, verbose=0
        ),
    ).fit()
    return ledger.lines()
