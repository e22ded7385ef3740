"""How sure the differences between arms are: one paired bootstrap over images for everything."""

import numpy as np


def resampled_means(values: dict, resamples: int = 2000, seed: int = 0) -> dict:
    """
    Means over images drawn with replacement. All quantities see the same draws, so that differences and ratios of
    the results are paired.

    Args:
        values (`dict` of `np.ndarray` of shape `(images,)`): One finite number per image, under any keys.
        resamples (`int`, *optional*, defaults to 2000): How many draws.
        seed (`int`, *optional*, defaults to 0): Of the draws.

    Returns:
        `dict` of `np.ndarray` of shape `(resamples,)`, float64, under the same keys.

    Example:

    ```python
    >>> import numpy as np
    >>> from adatok_hf.study.statistics import interval, resampled_means

    >>> noise = np.random.default_rng(0).normal(size=400)
    >>> means = resampled_means({"one": noise, "other": noise + 0.5})
    >>> [round(bound, 6) for bound in interval(means["other"] - means["one"])]
    [0.5, 0.5]

    ```"""
    matrix = np.stack([np.asarray(column, dtype=np.float64) for column in values.values()], axis=1)
    images = len(matrix)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, matrix.shape[1]))
    rows_at_once = max(1, 2_000_000 // images)  # 16 MB of counts
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        draws = generator.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * images).reshape(rows, images)
        means[start : start + rows] = counts.astype(np.float64) @ matrix / images
    return dict(zip(values, means.T))


def interval(samples: np.ndarray) -> list[float]:
    """The 95 % percentile interval of resampled numbers, `[low, high]`."""
    return [float(bound) for bound in np.percentile(samples, [2.5, 97.5])]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation in [-1, 1]; `None` where one side is the same for all images."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def front(mean_budgets: np.ndarray, lpips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other one beats in both, by rising budget."""
    order = np.lexsort((lpips, mean_budgets))
    is_best = np.diff(np.minimum.accumulate(lpips[order]), prepend=np.inf) < 0
    return mean_budgets[order][is_best], lpips[order][is_best]


def distance_to_front(mean_budget: float, lpips: float, front_budgets: np.ndarray, front_lpips: np.ndarray) -> float:
    """
    LPIPS of a point above that of a piecewise linear front at the same mean budget: negative is beyond the front. To
    the right of its last point the front goes on level, to the left of its first one as well.

    Example:

    ```python
    >>> import numpy as np
    >>> from adatok_hf.study.statistics import distance_to_front

    >>> distance_to_front(12, 0.3, np.array([8, 16]), np.array([0.4, 0.25])).__round__(4)
    -0.025

    ```"""
    return float(lpips - np.interp(mean_budget, front_budgets, front_lpips))


__all__ = ["distance_to_front", "front", "interval", "rank_correlation", "resampled_means"]
