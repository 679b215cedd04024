"""Effective data transferred, as text and as a figure."""

from __future__ import annotations

import math

from analysis.in_words import aligned, interval
from analysis.transfer.effective_data import Transfer
from scaling.units import si


def text(found: Transfer) -> str:
    """Return a table of the cells, the share of them whose sign is known, and the law."""
    rows = [
        ["N", "D_F", "seeds", "scratch", "pre-trained", "D_E/D_F", "D_T", f"{found.level:.0%}", ""]
    ]
    for cell in found.cells.to_dict("records"):
        rows.append(
            [
                si(cell["N"]),
                si(cell["D_F"]),
                str(cell["seeds"]),
                _number(cell["L_scratch"], ".4f"),
                f"{cell['L_pretrained']:.4f}",
                _number(cell["ratio"], ".2f"),
                "-" if math.isnan(cell["D_T"]) else si(cell["D_T"]),
                _interval(cell),
                cell["note"] or cell["sign"],
            ]
        )
    lines = aligned(rows, left={8})
    known = (found.cells["sign"] != "unclear").sum()
    gains = (found.cells["sign"] == "gain").sum()
    lines.append(
        f"the sign of the transfer is known in {known} of {len(found.cells)} cells "
        f"({found.stable:.0%}): {gains} gain and {known - gains} lose; losses differ by "
        f"{100 * found.noise:.2g} % between seeds"
    )
    (scratch, of_scratch), (tuned, of_tuned) = found.untuned["scratch"], found.untuned["pretrained"]
    if scratch or tuned:
        lines.append(
            f"the best learning rate is an end of those tried in {scratch} of {of_scratch} cells "
            f"from scratch and in {tuned} of {of_tuned} fine-tuned: train the next rates, or D_T "
            "compares arms that are not tuned"
        )
    lines.append(law_in_words(found))
    return "\n".join(lines)


def law_in_words(found: Transfer) -> str:
    """Return the law with its intervals, or why there is none."""
    law = found.law
    if law is None:
        return (
            "no law: it needs four cells of two sizes with a positive D_T that lies between the "
            "runs from scratch"
        )
    alpha, beta = (
        f"{name}={getattr(law, name):.2f} {interval(*law.intervals[name], '.2f')}"
        for name in ("alpha", "beta")
    )
    k = f"k={law.k:.3g} {interval(*law.intervals['k'], '.2g')}"
    return (
        f"D_T = k D_F^alpha N^beta: {k}, {alpha}, {beta}; {law.cells} cells, rms "
        f"{100 * law.rms:.0f} %"
    )


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _interval(cell: dict[str, float]) -> str:
    """Return the interval of D_T; D_E outside the runs from scratch leaves an end open."""
    low, high = cell["D_T_low"], cell["D_T_high"]
    if math.isinf(low):
        return "[not bounded]"
    if low <= -cell["D_F"]:
        return f"[not bounded below, {si(high)}]"
    return f"[{si(low)}, {'not bounded above' if math.isinf(high) else si(high)}]"
