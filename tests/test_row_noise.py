"""Noise of runs: shared by a size, changing with size, on the log or the raw loss; influence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import Range, fit, laws
from analysis.fitting.size_effect import estimate, size_effect

TRUTH = {"E": 1.82, "A": 480.0, "B": 2100.0, "alpha": 0.347, "beta": 0.367}


def grid(sizes: int, runs: int, shared: float, seed: int = 0, noise: float = 0.005):
    """Return runs of Chinchilla's law at a few sizes that each share an error."""
    rng = np.random.default_rng([sizes, runs, seed])
    N = np.repeat(np.geomspace(5e7, 1.6e10, sizes), runs)
    D = N * np.exp(rng.uniform(np.log(3), np.log(300), len(N)))
    error = np.repeat(shared * rng.standard_normal(sizes), runs)
    L = laws.chinchilla.predict(TRUTH, N=N, D=D)
    return pd.DataFrame(
        {"N": N, "D": D, "L": L * np.exp(error + noise * rng.standard_normal(len(N)))}
    )


def spread(runs: int, seed: int, power: float = 0.0, scale: float = 0.005) -> pd.DataFrame:
    """Return runs of Chinchilla's law whose noise has a variance proportional to N^power."""
    rng = np.random.default_rng([runs, seed])
    N = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), runs))
    D = N * np.exp(rng.uniform(np.log(3), np.log(300), runs))
    sd = scale * (N / 9e8) ** (power / 2)
    L = laws.chinchilla.predict(TRUTH, N=N, D=D) * np.exp(sd * rng.standard_normal(runs))
    return pd.DataFrame({"N": N, "D": D, "L": L})


def far(result) -> tuple[float, float]:
    """Return the interval of L at 100 times the largest compute."""
    low, high = result.predict_interval(0.9, N=1.6e11, D=4.8e13)
    return float(low), float(high)


# ------------------------------------------------------------------ errors shared by a size


@pytest.mark.parametrize("options", [{"bootstrap": 0}, {"bootstrap": 60}])
def test_an_error_shared_by_the_runs_of_a_size_widens_intervals(options):
    runs = grid(8, 8, shared=0.01, seed=1)
    result = fit("chinchilla", runs, **options)
    effect = size_effect(result.problem, result.minimum)
    assert effect is not None and 0.004 < effect.sd < 0.025
    assert result.certificate.size_effect == effect.sd
    apart = fit("chinchilla", runs.assign(N=runs["N"] * (1 + 1e-9 * np.arange(64))), **options)
    assert size_effect(apart.problem, apart.minimum) is None  # no size has two runs
    wide, narrow = far(result), far(apart)
    assert wide[1] - wide[0] > 1.7 * (narrow[1] - narrow[0])
    assert "that the runs of each N share" in result.text()


def test_intervals_far_out_cover_although_sizes_share_an_error():
    truth = float(laws.chinchilla.predict(TRUTH, N=1.6e11, D=4.8e13))
    ends = [far(fit("chinchilla", grid(8, 8, 0.01, seed), bootstrap=0)) for seed in range(20)]
    assert sum(low <= truth <= high for low, high in ends) >= 14


def test_without_such_an_error_intervals_stay_as_they_are():
    found = []
    for seed in range(12):
        result = fit("chinchilla", grid(8, 8, 0.0, seed), bootstrap=0)
        found.append(size_effect(result.problem, result.minimum) is not None)
    assert sum(found) <= 2


def test_the_effect_is_estimated_without_bias():
    sd = []
    for seed in range(12):
        result = fit("chinchilla", grid(12, 6, 0.01, seed), bootstrap=0)
        effect = estimate(result.problem, result.minimum)
        assert effect is not None and effect.freedom < 12
        sd.append(effect.sd**2)
    assert np.sqrt(np.mean(sd)) == pytest.approx(0.01, rel=0.35)


def test_one_run_per_size_has_no_error_of_its_size_apart_from_its_own():
    runs = grid(10, 6, 0.01).assign(run_id=lambda t: t["N"].astype(str))
    result = fit("chinchilla", runs, bootstrap=0)
    assert result.certificate.groups == 10
    assert result.certificate.size_effect is None and result.certificate.size_p is None


# ------------------------------------------------------------------ log or raw


@pytest.mark.parametrize("scale", ["log", "raw"])
def test_auto_takes_the_scale_on_which_the_noise_is_even(scale):
    rng = np.random.default_rng(3)
    N = np.exp(rng.uniform(np.log(1e5), np.log(1e10), 300))
    L = 1.5 + 900 * N**-0.45
    noise = 0.02 * rng.standard_normal(300)
    runs = pd.DataFrame({"N": N, "L": L * np.exp(noise) if scale == "log" else L + noise})
    result = fit("floor_N", runs, on="auto", bootstrap=0)
    assert result.problem.on == scale
    same = fit("floor_N", runs, on=scale, bootstrap=0)
    assert result.params == pytest.approx(same.params, rel=1e-6)
    assert f"of {'log L' if scale == 'log' else 'L'}" in result.loss


def test_auto_fits_a_target_that_has_no_logarithm_on_the_raw_scale():
    runs = spread(40, 0).assign(gain=lambda t: t["L"] - 2.5)
    gain = replace(laws.floor_N, target="gain", ranges={**laws.floor_N.ranges, "E": Range(-5, 5)})
    result = fit(gain, runs, on="auto", bootstrap=0)
    assert result.problem.on == "raw" and (runs["gain"] < 0).any()


# ------------------------------------------------------------------ noise that changes with size


def test_a_variance_that_falls_with_size_is_found_and_used():
    result = fit("chinchilla", spread(120, 2, power=-1.0), noise="sizes", bootstrap=0)
    assert result.noise is not None and result.noise.p < 1e-6
    assert result.noise.exponents["N"] == pytest.approx(-1.0, abs=0.3)
    assert result.noise.exponents["D"] == pytest.approx(0.0, abs=0.3)
    small = result.predict_interval(0.9, noise=True, N=1e8, D=5e9)
    large = result.predict_interval(0.9, noise=True, N=1e10, D=5e11)
    assert np.log(small[1] / small[0]) > 3 * np.log(large[1] / large[0])
    assert "standard deviation proportional to N^-0." in result.text()
    assert set(result.record()["noise"]) == {"constant", "exponents", "p"}


def test_auto_leaves_even_noise_alone():
    kept = []
    for seed in range(8):
        runs = spread(60, seed)
        result = fit("chinchilla", runs, noise="auto", bootstrap=0)
        kept.append(result.noise is None)
        if result.noise is None:
            assert result.params == fit("chinchilla", runs, bootstrap=0).params
    assert sum(kept) >= 6


def test_repeated_runs_tell_the_variance_whatever_the_law():
    rng = np.random.default_rng(0)
    runs = pd.concat([spread(30, 2, scale=0.0)] * 4, ignore_index=True)
    runs["seed"] = np.repeat(np.arange(4), 30)
    sd = 0.01 * (runs["N"] / 9e8) ** -0.5
    runs["L"] *= np.exp(sd * rng.standard_normal(120))
    result = fit("kaplan_N", runs, noise="sizes", bootstrap=0)  # the wrong law
    assert result.noise is not None
    assert result.noise.exponents["N"] == pytest.approx(-1.0, abs=0.35)


def test_an_unknown_noise_is_refused():
    from analysis import FitError

    with pytest.raises(FitError, match="noise"):
        fit("chinchilla", spread(30, 0), noise="size", bootstrap=0)


# ------------------------------------------------------------------ influence


def test_the_row_that_moves_the_answer_most_is_named():
    runs = spread(40, 1)
    top = int((runs["N"] * runs["D"]).idxmax())
    runs.loc[top, "L"] *= 1.4
    result = fit("chinchilla", runs, objective="ls", bootstrap=0)
    table = result.influence()
    assert len(table) == 40 and table.index[0] == top
    without = fit("chinchilla", runs.drop(index=top), objective="ls", bootstrap=0)
    for name in ("E", "alpha", "beta"):
        change = without.params[name] - result.params[name]
        assert table.loc[top, name] == pytest.approx(change, rel=1e-3)
    row, change, half = result.most_influential()
    assert row == top and abs(change) > half
    assert f"influence: without row {top}, L at 10 times the largest compute" in result.text()


def test_no_row_is_named_where_none_matters():
    result = fit("chinchilla", spread(40, 1), bootstrap=0)
    assert "influence:" not in result.text()
    some = result.influence(every=False)
    assert len(some) < 40 and some.index[0] in result.influence().index[:3]


# ------------------------------------------------------------------ outliers


def test_bad_rows_that_lie_together_do_not_hide_each_other():
    runs = spread(60, 4)
    bad = runs["D"].nsmallest(24).index[::4]
    runs.loc[bad, "L"] *= 1.06
    result = fit("chinchilla", runs, bootstrap=0)
    assert set(bad) <= set(result.outliers().index) and len(result.outliers()) <= 10
    plain = fit("chinchilla", spread(60, 4), bootstrap=0)
    assert len(plain.outliers()) == 0


def test_the_rows_that_a_published_fit_dropped_are_the_farthest():
    published = Path(__file__).parents[2] / "shared/published/besiroglu2024_epoch"
    if not published.exists():
        pytest.skip("the published table is not here")
    table = pd.read_csv(published / "svg_extracted_data.csv")
    N, C = table["Model Size"], table["Training FLOP"]
    runs = pd.DataFrame({"N": N, "D": C / 6 / N, "L": table["loss"]})
    found = fit("chinchilla", runs, bootstrap=0).outliers()
    assert set(found.index[:5]) == set(table["loss"].nlargest(5).index)
