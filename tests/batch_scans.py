"""Learning curves of a scan over batch sizes, on which the laws of Kaplan et al. hold exactly."""

import numpy as np
import pandas as pd

KAPLAN = {"N_c": 6e13, "alpha_N": 0.076, "S_c": 2e3, "alpha_S": 0.5, "B_star": 2e6, "alpha_B": 0.21}


def batch_scan(sizes=(1e4, 1e5, 1e6), batches=(256, 1024, 4096, 16384, 65536), end=0.5):
    """Return curves on which L(N, S_min) and B_crit(L) of KAPLAN hold exactly (eqs. 5.3 to 5.6)."""
    k, runs, curves = KAPLAN, [], []
    for N in sizes:
        floor = (k["N_c"] / N) ** k["alpha_N"]
        for B in batches:
            L = floor + np.geomspace(2.5, end, 24)
            S = k["S_c"] * (L - floor) ** (-1 / k["alpha_S"])
            S = S * (1 + k["B_star"] * L ** (-1 / k["alpha_B"]) / B)
            run = {"run_id": f"b{len(runs)}", "status": "ok", "N": N, "B": B, "lr_peak": 1e-3}
            work = pd.DataFrame({"S": S, "D": S * B, "C": 6 * N * S * B, "L": L, "L_train": L})
            runs.append(run | work.iloc[-1].to_dict() | {"D_unique": S[-1] * B})
            curves.append(work.assign(**run, D_total=S[-1] * B, L_final=L[-1], lr=1e-3))
    return pd.DataFrame(runs), pd.concat(curves, ignore_index=True)
