"""The law of curves and sizes: the loss of a run of N parameters at any step of any schedule.

    L = E + ((A / N^alpha)^k + (B / T^beta)^k)^(1/k) + H (1 - sum_j w_j h(x_j / tau))
    h(x) = 1 - (1 + x / c)^-c,  H = G N^p T^q,  tau = K N^u T^v

T are the tokens weighted by the learning rate in units of the run's peak. The first two terms are
the loss of a run whose rate has fallen to zero slowly: an L(N, D) law. The last one is the excess
of a run that still trains at its peak. A fall of the rate by the share w_j of the peak takes that
share of the excess away, once enough weighted tokens x_j have followed it. A rise gives it back.
Runs with batches of b tokens count T / (1 + b / B_crit) tokens, B_crit = B_0 T^m.

Sources: Luo et al. 2025 (arXiv 2503.12811), the sum over falls of the rate; Hoffmann et al. 2022
(arXiv 2203.15556) and Kaplan et al. 2020 (arXiv 2001.08361), eq. 1.5, L(N, D); McCandlish et al.
2018 (arXiv 1812.06162), B_crit. That H and tau are power laws of N and T is found here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NAME = "multi_power_size"
"""What :func:`analysis.fit_curves` calls the law."""
FORMULA = (
    "L = E + ((A / N^alpha)^k + (B / T^beta)^k)^(1/k) + H (1 - sum_j w_j h(x_j / tau)), "
    "h(x) = 1 - (1 + x / c)^-c, H = G N^p T^q, tau = K N^u T^v"
)
SOURCE = "Luo et al. 2025 (arXiv 2503.12811), with the forms of L(N, D)"
UNKNOWNS = (
    "ln_E", "ln_A", "ln_B", "ln_alpha", "ln_beta", "ln_k",
    "ln_G", "p", "q", "ln_K", "u", "v", "ln_c",
    "ln_B_0", "m",
)  # fmt: skip
"""Unknowns of a fit; coefficients are those at the reference N and T of the rows."""

EXPONENTS = {"p": (0.0, 0.025), "q": (0.0, 0.025), "u": (-0.2, 0.05), "v": (0.7, 0.07)}
"""Mean and standard deviation of what is believed of the exponents before a fit.

They are what the sweeps `compute`, `designed-grid` and `distributions` have in common when each is
fitted with weak beliefs: the excess at the peak rate hardly depends on size and horizon, and the
tokens that an annealing takes grow as T^0.7 and fall slowly with size.
"""


@dataclass(frozen=True, eq=False)
class Rows:
    """What the law needs of n points of curves. J nodes describe the changes of the rates."""

    N: np.ndarray
    T: np.ndarray
    """Tokens weighted by the learning rate in units of the peak (n,)."""
    batch: np.ndarray
    """Tokens per step (n,)."""
    rate: np.ndarray
    """Learning rate in units of the peak (n,)."""
    node_row: np.ndarray
    """The row of each node (J,), increasing."""
    node_share: np.ndarray
    """Fall of the rate in units of the peak (J,)."""
    node_tokens: np.ndarray
    """Weighted tokens since then (J,)."""

    def __len__(self) -> int:
        return len(self.N)

    def take(self, which: np.ndarray) -> Rows:
        """Return the rows of a boolean mask or of increasing indices."""
        kept = np.arange(len(self))[which]
        place = np.full(len(self), -1)
        place[kept] = np.arange(len(kept))
        nodes = place[self.node_row] >= 0
        return Rows(
            self.N[kept], self.T[kept], self.batch[kept], self.rate[kept],
            place[self.node_row[nodes]], self.node_share[nodes], self.node_tokens[nodes],
        )  # fmt: skip


def joined(parts: list[Rows]) -> Rows:
    """Return the rows of several tables as one."""
    starts = np.cumsum([0] + [len(p) for p in parts])
    N, T, batch, rate = (
        np.concatenate([getattr(p, f) for p in parts]) for f in ("N", "T", "batch", "rate")
    )
    row = np.concatenate([p.node_row + s for p, s in zip(parts, starts[:-1], strict=True)])
    share, tokens = (
        np.concatenate([getattr(p, f) for p in parts]) for f in ("node_share", "node_tokens")
    )
    return Rows(N, T, batch, rate, row, share, tokens)


@dataclass(frozen=True, eq=False)
class SizeLaw:
    """The law around a reference size and horizon, and what is believed of its unknowns."""

    N_0: float
    T_0: float
    center: np.ndarray
    """Mean of each unknown before the fit (q,)."""
    free: np.ndarray
    """Indices of the unknowns that are fitted (f,)."""
    precision: np.ndarray
    """Inverse covariance of the beliefs about those (f, f)."""

    @classmethod
    def around(
        cls, rows: Rows, loss: np.ndarray, *, batches: bool, fixed: dict[str, float]
    ) -> SizeLaw:
        """Return the law with weak beliefs around some rows and the beliefs of EXPONENTS.

        rows: The rows to fit.
        loss: Their losses.
        batches: Whether the rows have several batch sizes.
        fixed: Values of unknowns that are not fitted.
        """
        N_0, T_0 = (float(np.exp(np.log(x).mean())) for x in (rows.N, rows.T))
        low = float(np.log(loss.min()))
        batch = float(np.log(rows.batch).mean())
        beliefs = {
            "ln_E": (low - 0.7, 0.7), "ln_A": (low - 0.8, 3.0), "ln_B": (low - 0.8, 3.0),
            "ln_alpha": (np.log(0.2), 1.0), "ln_beta": (np.log(0.2), 1.0), "ln_k": (1.3, 0.4),
            "ln_G": (low - 1.3, 0.7), "ln_K": (float(np.log(T_0)) - 2.0, 1.5), "ln_c": (1.0, 0.7),
            "ln_B_0": (batch + 1.0, 2.0) if batches else (np.inf, 0.0),
            "m": (0.5, 0.2) if batches else (0.0, 0.0),
            **EXPONENTS,
        }  # fmt: skip
        center = np.array([beliefs[name][0] for name in UNKNOWNS], float)
        spread = np.array([beliefs[name][1] for name in UNKNOWNS], float)
        for name, value in fixed.items():
            center[UNKNOWNS.index(name)], spread[UNKNOWNS.index(name)] = value, 0.0
        free = np.flatnonzero(spread)
        precision = np.diag(spread[free] ** -2.0)
        return cls(N_0, T_0, center, free, precision)

    def loss(self, z: np.ndarray, rows: Rows) -> np.ndarray:
        """Return the loss of each row at the unknowns z (q,)."""
        return self._parts(z, rows)[0]

    def excess(self, z: np.ndarray, rows: Rows) -> np.ndarray:
        """Return the share of the loss of each row that annealing has taken away."""
        loss, _, _, _, H, left, *_ = self._parts(z, rows)
        return H * (1 - left) / loss

    def _parts(self, z: np.ndarray, rows: Rows) -> tuple[np.ndarray, ...]:
        e, a, b, la, lb, lk, g, p, q, lt, u, v, lc, l0, m = z
        n, t = np.log(rows.N / self.N_0), np.log(rows.T / self.T_0)
        crowd = rows.batch * np.exp(-l0 - m * t)  # b / B_crit
        waste = np.log1p(crowd)
        s = t - waste
        X, Y = a - np.exp(la) * n, b - np.exp(lb) * s
        k = np.exp(lk)
        log_floor = np.logaddexp(k * X, k * Y) / k
        H = np.exp(g + p * n + q * s)
        log_tau = lt + u * n + v * s + waste  # the nodes' tokens are wasted alike
        y = rows.node_tokens * np.exp(-log_tau[rows.node_row] - lc)
        h = -np.expm1(-np.exp(lc) * np.log1p(y))
        left = 1 - np.bincount(rows.node_row, rows.node_share * h, len(rows))
        return (np.exp(e) + np.exp(log_floor) + H * left, n, s, log_floor, H, left, X, Y, y, t,
                crowd)  # fmt: skip

    def log_loss_and_slopes(self, z: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Return ln L (n,) and its slopes in the free unknowns (n, f)."""
        loss, n, s, log_floor, H, left, X, Y, y, t, crowd = self._parts(z, rows)
        _, _, _, la, lb, lk, _, _, q, _, _, v, lc, _, _ = z
        k, floor, c = np.exp(lk), np.exp(log_floor), np.exp(lc)
        of_X = np.exp(k * (X - log_floor))
        of_Y = np.exp(k * (Y - log_floor))
        l1, shares = np.log1p(y), rows.node_share
        rest = np.exp(-c * l1)
        by_x = np.bincount(rows.node_row, shares * c * y / (1 + y) * rest, len(rows))
        by_c = np.bincount(rows.node_row, shares * rest * c * (l1 - y / (1 + y)), len(rows))
        of_tau = H * by_x
        by_s = -floor * of_Y * np.exp(lb) + q * H * left + v * of_tau
        by_waste = of_tau - by_s
        push = crowd / (1 + crowd)  # -d waste / d ln B_crit
        slopes = [
            np.full(len(rows), np.exp(z[0])), floor * of_X, floor * of_Y,
            -floor * of_X * np.exp(la) * n, -floor * of_Y * np.exp(lb) * s,
            floor * (of_X * X + of_Y * Y - log_floor),
            H * left, H * left * n, H * left * s, of_tau, of_tau * n, of_tau * s, -H * by_c,
            -by_waste * push, -by_waste * push * t,
        ]  # fmt: skip
        return np.log(loss), np.column_stack([slopes[i] / loss for i in self.free])

    def params(self, z: np.ndarray) -> dict[str, float]:
        """Return the parameters of the formula, in absolute units of N and T."""
        e, a, b, la, lb, lk, g, p, q, lt, u, v, lc, l0, m = z
        n, t = np.log(self.N_0), np.log(self.T_0)
        alpha, beta = float(np.exp(la)), float(np.exp(lb))
        found = {
            "E": np.exp(e), "A": np.exp(a + alpha * n), "B": np.exp(b + beta * t), "alpha": alpha,
            "beta": beta, "k": np.exp(lk), "G": np.exp(g - p * n - q * t), "p": p, "q": q,
            "K": np.exp(lt - u * n - v * t), "u": u, "v": v, "c": np.exp(lc),
        }  # fmt: skip
        if np.isfinite(l0):
            found |= {"B_0": np.exp(l0 - m * t), "m": m}
        return {name: float(value) for name, value in found.items()}
