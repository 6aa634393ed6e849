"""Means over items that were drawn at random within two strata, and what they say of all rows.

The strata are the rows on which two models' answers differ, and the others. With N_d of N rows in the first,
W = N_d / N, and the mean m of a stratum's items, the estimate is

    W m_differing + (1 - W) m_same

which has no bias whatever share of the items was taken from either stratum (Cochran 1977, section 5.3).

Intervals are percentiles of a bootstrap over items: of n items of a stratum n - 1 are drawn with replacement and
weighted by n / (n - 1), so that the variance has no bias (Rao and Wu 1988), and W is drawn anew as the share in N rows,
since the rows themselves are a sample of all requests. A bootstrap knows only what it saw: where fewer than `FEW_FLIPS`
items of a stratum deviate from the rest, an interval of a share stands beside it and the wider end counts. The strata's
intervals are put together by their distances from the means: (W d_differing)^2 + ((1 - W) d_same)^2 (Zou and Donner
2008).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from deshi.serve.statistics import FEW_FLIPS, Interval

RESAMPLES = 1999
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Strata:
    """The stratum of each item, and the sizes of the strata that they were drawn from."""

    differs: tuple[bool, ...]  # by item
    rows: int
    rows_differing: int
    confidence: float
    seed: int

    @cached_property
    def weights(self) -> Floats:
        """[items], their sum is 1: the share of all rows that an item stands for."""
        return self._weights(np.ones(len(self.differs)), self.rows_differing / self.rows)

    @cached_property
    def replicates(self) -> Floats:
        """[RESAMPLES, items]: the weights in each draw of the bootstrap."""
        rng = np.random.default_rng([self.seed, 23])
        counts = np.ones((RESAMPLES, len(self.differs)))
        for stratum in (True, False):
            here = np.flatnonzero(np.array(self.differs) == stratum)
            if (n := len(here)) > 1:
                counts[:, here] = rng.multinomial(n - 1, np.full(n, 1 / n), size=RESAMPLES) * n / (n - 1)
        shares = rng.binomial(self.rows, self.rows_differing / self.rows, size=(RESAMPLES, 1)) / self.rows
        return self._weights(counts, shares)

    def _weights(self, counts: Floats, share: Floats | float) -> Floats:
        differs = np.array(self.differs)
        of_stratum = np.where(differs, share, 1 - np.asarray(share))
        return counts * of_stratum / np.where(differs, max(1, differs.sum()), max(1, (~differs).sum()))

    def mean(self, values: Floats, *, least: float, most: float) -> Interval:
        """The mean over all rows of a value between `least` and `most`, [items]."""
        value = float(self.weights @ values)
        low, high = self._percentiles(self.replicates @ values)
        parts = [values[np.array(self.differs) == stratum] for stratum in (True, False)]
        if any(len(part) and _deviating(part) < FEW_FLIPS for part in parts):
            below, above, shares = 0.0, 0.0, (self.rows_differing / self.rows, 1 - self.rows_differing / self.rows)
            for part, share in zip(parts, shares, strict=True):
                if len(part):
                    mean, ends = part.mean(), self._of_stratum(part, least, most)
                    below, above = below + (share * (mean - ends[0])) ** 2, above + (share * (ends[1] - mean)) ** 2
            low, high = min(low, value - below**0.5), max(high, value + above**0.5)
        return Interval(value=value, low=low, high=high, n=len(values))

    def _of_stratum(self, values: Floats, least: float, most: float) -> tuple[float, float]:
        """The interval of one stratum's mean: Wilson's where few deviate, else from the standard error."""
        if _deviating(values) < FEW_FLIPS:
            share = (values.mean() - least) / (most - least)
            low, high = _wilson(share, np.ones(len(values)), self.confidence)
            return least + low * (most - least), least + high * (most - least)
        reach = stats.norm.ppf((1 + self.confidence) / 2) * values.std(ddof=1) / len(values) ** 0.5
        return values.mean() - reach, values.mean() + reach

    def difference(self, values: Floats, *, most: float) -> Interval:
        """The mean over all rows of a difference, [items], of at most `most` either way and 0 for the same answer.

        With few deviating items: gains and losses of the differing items each have a Clopper-Pearson interval at half
        the error, and so has W.
        """
        value = float(self.weights @ values)
        low, high = self._percentiles(self.replicates @ values)
        if np.count_nonzero(values) < FEW_FLIPS:
            exact = {"alpha": (1 - self.confidence) / 2, "method": "beta"}
            here = values[np.array(self.differs)] / most
            ends = [(0.0, 1.0), (0.0, 1.0)]
            if len(here):
                ends = [proportion_confint(np.maximum(sign * here, 0).sum(), len(here), **exact) for sign in (1, -1)]
            (gain_low, gain_high), (loss_low, loss_high) = ends
            shares = proportion_confint(self.rows_differing, self.rows, **exact)
            low = min(low, *(float(most * share * (gain_low - loss_high)) for share in shares))
            high = max(high, *(float(most * share * (gain_high - loss_low)) for share in shares))
        return Interval(value=value, low=low, high=high, n=len(values))

    def share(self, part: Floats, whole: Floats) -> Interval | None:
        """sum(part) / sum(whole) over all rows, each [items], 0 <= part <= whole; None where the whole is nothing."""
        weighted = self.weights * whole
        if not weighted.sum() > 0:
            return None
        value = float(self.weights @ part / weighted.sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = self._percentiles((self.replicates @ part) / (self.replicates @ whole))
        counted = whole > 0
        if _deviating(part[counted] / whole[counted]) < FEW_FLIPS:
            low_share, high_share = _wilson(value, weighted, self.confidence)
            low, high = min(low, low_share), max(high, high_share)
        return Interval(value=value, low=low, high=high, n=int(counted.sum()))

    def _percentiles(self, drawn: Floats) -> tuple[float, float]:
        beyond = (1 - self.confidence) / 2
        low, high = np.nanquantile(drawn, (beyond, 1 - beyond))
        return float(low), float(high)


def _deviating(values: Floats) -> int:
    """How many items do not have the commonest value."""
    return len(values) - Counter(values.tolist()).most_common(1)[0][1]


def _wilson(share: float, weights: Floats, confidence: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a mean in 0 to 1 at the effective number of items, (sum w)^2 / sum w^2 (Kish 1965).

    No quantity in 0 to 1 varies more than a share of the same mean, so it holds for them too.
    """
    n = weights.sum() ** 2 / (weights**2).sum()
    low, high = proportion_confint(share * n, n, alpha=1 - confidence, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))
