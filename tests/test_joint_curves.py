"""The law of curves and sizes: recovery, intervals, trunks, batches, forecasts, and `headline`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit_curves
from analysis.curves.effects import CurveEffects
from analysis.curves.joint import JointFit, fit_joint
from analysis.curves.joint_read import rows_of
from analysis.curves.joint_solve import draws
from analysis.curves.rates import Rates, config_of
from analysis.curves.simulated import simulate, true_law, wsd
from analysis.curves.size_law import UNKNOWNS, SizeLaw
from analysis.fitting.checks import FitError
from scaling.errors import TableError

HEADLINE = Path(__file__).parents[1] / "results/headline"
SIZES = list(np.geomspace(3e3, 1e6, 5))
HORIZONS = list(np.geomspace(2e5, 6.4e6, 4))
QUIET = CurveEffects(white=3e-4, jitter=3e-4, offset=1e-4, misfit=1e-5, drift=1e-4, annealing=1e-4)


@pytest.fixture(scope="module")
def quiet() -> JointFit:
    sweep = simulate(SIZES, HORIZONS, points=24, noise=QUIET)
    return fit_joint(sweep.curves, rates=sweep.rates, n_boot=100)


def test_a_known_law_is_recovered(quiet: JointFit):
    law, z = true_law()
    true = law.params(z)
    assert quiet.converged
    for name in ("alpha", "beta", "v", "u"):
        assert quiet.params[name] == pytest.approx(true[name], abs=0.03), name
    S = 25_000  # twice the longest run
    found = quiet.predict_final(N=2e6, D=S * 512, rates=wsd(S))
    assert found == pytest.approx(
        law.loss(z, rows_of(2e6, wsd(S), np.array([S]), 512))[0], rel=3e-3
    )


def test_slopes_are_those_of_the_law_with_several_batch_sizes():
    law, z = true_law()
    z = z.copy()
    z[UNKNOWNS.index("ln_B_0")], z[UNKNOWNS.index("m")] = np.log(4096), 0.4
    law = SizeLaw(law.N_0, law.T_0, z, np.arange(len(z)), np.eye(len(z)))
    rows = rows_of(5e4, wsd(1000), np.array([100, 700, 850, 1000]), 2048)
    _, slopes = law.log_loss_and_slopes(z, rows)
    for i, name in enumerate(UNKNOWNS):
        up, down = z.copy(), z.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        numeric = (np.log(law.loss(up, rows)) - np.log(law.loss(down, rows))) / 2e-5
        assert slopes[:, i] == pytest.approx(numeric, abs=1e-8), name


def test_sums_over_the_schedule_are_direct_sums_over_steps():
    rates, S = wsd(400), 390
    rows = rows_of(5e4, rates, np.array([S]), 512)
    lr = rates.at(np.arange(S + 1))
    falls = -np.diff(lr)[20:]  # after the warm-up of 20 steps
    since = np.array([lr[k:].sum() * 512 for k in range(21, S + 1)])
    direct = np.sum(falls * (1 - np.exp(-since / 1e4)))
    assert np.sum(rows.node_share * (1 - np.exp(-rows.node_tokens / 1e4))) == pytest.approx(
        direct, rel=1e-5
    )
    assert rows.T[0] == pytest.approx(lr[1:].sum() * 512)


def test_the_name_of_the_law_leads_to_the_joint_fit():
    sweep = simulate(SIZES[:3], HORIZONS[:3], points=12)
    fit = fit_curves("multi_power_size", sweep.curves, N="N", rates=sweep.rates, n_boot=20)
    assert isinstance(fit, JointFit)
    assert set(fit.interval(0.5)) == set(fit.params) == set(fit.draws.columns)
    assert "B_0" not in fit.params  # one batch size says nothing of the critical one
    low, high = fit.predict_interval(0.9, N=SIZES[0], step=[1000], rates=wsd(1000))
    assert low[0] < fit.predict(N=SIZES[0], step=[1000], rates=wsd(1000))[0] < high[0]
    assert "multi_power_size" in str(fit)
    assert fit.to_json()["law"] == "multi_power_size"


def test_options_of_the_joint_law_are_refused_for_laws_of_one_size():
    sweep = simulate(SIZES[:1], HORIZONS[:1], points=12)
    with pytest.raises(FitError, match="trunk is an option of multi_power_size"):
        fit_curves("multi_power", sweep.curves, trunk="x")


def test_steps_that_runs_of_a_trunk_share_count_once():
    sweep = simulate(SIZES[:3], HORIZONS[:2], points=12)
    twice = sweep.curves[sweep.curves.run_id.str.endswith(f"-{HORIZONS[1]:g}")].copy()
    twice["run_id"] += "-again"
    rates = dict(sweep.rates) | {f"{run}-again": r for run, r in sweep.rates.items()}
    both = pd.concat([sweep.curves, twice]).assign(trunk=lambda t: t.N)
    one = fit_joint(sweep.curves.assign(trunk=sweep.curves.N), trunk="trunk", rates=rates, n_boot=0)
    two = fit_joint(both, trunk="trunk", rates=rates, n_boot=0)
    assert two.n == one.n
    assert any("counted once" in note for note in two.notes)
    assert all(len(trunks) == 1 for trunks in two.sweep.trunks)
    own = fit_joint(sweep.curves, rates=rates, n_boot=0)
    assert all(len(trunks) == 2 for trunks in own.sweep.trunks)


def test_a_critical_batch_size_is_found_where_runs_differ_in_batch():
    law, z = true_law()
    z = z.copy()
    z[UNKNOWNS.index("ln_B_0")] = np.log(2048)
    parts, rates = [], {}
    for batch in (256.0, 1024.0, 4096.0):
        sweep = simulate(SIZES, HORIZONS[:3], points=16, batch=batch, noise=QUIET, law=(law, z))
        curves = sweep.curves.assign(run_id=sweep.curves.run_id + f"-{batch:g}")
        parts.append(curves)
        rates |= {f"{run}-{batch:g}": r for run, r in sweep.rates.items()}
    fit = fit_joint(pd.concat(parts), rates=rates, n_boot=0)
    at_reference = fit.params["B_0"] * 3e5 ** fit.params["m"]
    assert np.log(at_reference / 2048) == pytest.approx(0, abs=0.3)
    with pytest.raises(FitError, match="several batch sizes"):
        fit.predict(N=1e5, step=[1000], rates=wsd(1000))


def test_a_run_that_lies_low_is_forecast_low(quiet: JointFit):
    S, N = 4000, 5e4
    step = np.array([400.0, 800, 1600, 2400])
    expected = quiet.predict(N=N, step=step, rates=wsd(S))
    plain = quiet.forecast_run(N=N, rates=wsd(S), target=S)
    low = quiet.forecast_run(N=N, rates=wsd(S), target=S, step=step, loss=expected * 0.995)
    assert low.loss[0] < plain.loss[0]
    assert low.covariance[0, 0] < plain.covariance[0, 0]
    assert low.surprise.shape == (4,)
    assert low.surprise[0] < -2
    bottom, top = low.interval(0.9)
    assert bottom[0] < low.loss[0] < top[0]


def test_draws_are_those_of_full_refits():
    sweep = simulate(SIZES[:4], HORIZONS[:3], points=16)
    fit = fit_joint(sweep.curves, rates=sweep.rates, n_boot=0)
    free = fit.law.free
    quick, full = (draws(fit.problem, fit.minimum, 30, 3, limit=n)[:, free] for n in (2, 60))
    assert np.sqrt(np.mean(((quick - full) / full.std(axis=0)) ** 2)) < 0.3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="N"), "no column 'N'"),
        (lambda t: t.drop(columns=["B", "D"]), "neither a column 'B'"),
        (lambda t: t.assign(N=t.N.where(t.index > 0, 7.0)), "several values"),
        (lambda t: t.assign(N=1e5), "1 sizes N"),
        (lambda t: t.assign(B=0.0), "more than 0"),
    ],
)
def test_curves_that_cannot_be_fitted_are_refused_with_a_reason(change, says: str):
    sweep = simulate(SIZES[:3], HORIZONS[:2], points=12)
    with pytest.raises((FitError, TableError), match=says):
        fit_joint(change(sweep.curves), rates=sweep.rates, n_boot=0)


@pytest.fixture(scope="module")
def headline() -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Rates]]:
    runs = pd.read_csv(HEADLINE / "runs.csv")
    rates = {row["run_id"]: Rates.from_config(config_of(row)) for row in runs.to_dict("records")}
    return runs, pd.read_parquet(HEADLINE / "curves.parquet"), rates


def ends(headline, horizon: float) -> tuple[float, float]:
    """Rms error of final losses and share of the 90 % intervals that hold them.

    The fit sees the first half of each run's tokens and all of one run per size.
    """
    runs, curves, rates = headline
    done = set(runs.run_id[runs.D.eq(horizon) & (runs.seed == 0)])
    whole = curves.run_id.map(runs.set_index("run_id").D)
    seen = curves[curves.D.le(whole / 2) | curves.run_id.isin(done)]
    fit = fit_joint(seen, runs, rates=rates, n_boot=0)
    errors, inside = [], []
    for row in runs[~runs.run_id.isin(done)].itertuples():
        known = row.run_id if row.run_id in fit.sweep.trunk_of else None
        out = fit.forecast_run(N=row.N, rates=rates[row.run_id], target=row.S, B=row.B, run=known)
        low, high = out.interval(0.9)
        errors.append(np.log(row.L) - out.mean[0])
        inside.append(low[0] <= row.L <= high[0])
    return float(np.sqrt(np.mean(np.square(errors)))), float(np.mean(inside))


def test_final_losses_follow_from_half_the_tokens_and_one_finished_run_per_size(headline):
    error, share = ends(headline, 640_000)  # the middle horizon
    assert error < 0.0051
    assert 0.85 <= share <= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [64_000, 137_728, 296_960, 1_378_816, 2_970_624, 6_400_000])
def test_final_losses_follow_from_any_finished_horizon(headline, horizon: float):
    error, share = ends(headline, horizon)
    assert error < (0.007 if horizon > 64_000 else 0.01)
    assert share >= 0.85


@pytest.mark.slow
def test_intervals_hold_the_truth_and_exponents_are_narrower_than_from_final_losses():
    from analysis import fit, laws

    law, z = true_law()
    z = z.copy()
    z[UNKNOWNS.index("ln_K")] = 7.0  # annealing is complete, so that final losses obey L(N, D)
    noise = CurveEffects(
        white=0.001, jitter=0.004, offset=0.003, misfit=1e-4, drift=0.003, annealing=1e-3
    )
    true = law.params(z)
    a = true["beta"] / (true["alpha"] + true["beta"])
    held, widths = [], []
    for seed in range(20):
        sweep = simulate(SIZES, HORIZONS, points=24, noise=noise, law=(law, z), seed=seed)
        joint = fit_joint(sweep.curves, rates=sweep.rates, n_boot=200)
        final = sweep.curves[sweep.curves["last"]][["run_id", "N", "D", "L"]]
        alone = fit(laws.bottleneck, final, bootstrap=200)
        low, high = (joint.draws.beta / (joint.draws.alpha + joint.draws.beta)).quantile(
            [0.05, 0.95]
        )
        samples = alone.samples()
        ratio = samples.beta / (samples.alpha + samples.beta)
        held.append(low <= a <= high)
        widths.append((float(ratio.quantile(0.95) - ratio.quantile(0.05)), high - low))
    assert np.mean(held) >= 0.8
    finals, curves = np.median(widths, axis=0)
    assert finals > 1.5 * curves
