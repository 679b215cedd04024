"""Derive the prior of the field from published runs: analysis/fitting/field_prior.json.

    python benchmarks/field_prior.py PUBLISHED --write

`bottleneck` is fitted to each table of benchmarks/published.toml that is not of this project. A
collection (a group of tables) has the median of its fits. Collections whose floor is not
determined (E below a tenth of the least loss) are left out. The widths are those of the rounded
prior, wider than the spread of the collections, which are few.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from analysis.fitting.fit import fit
from analysis.fitting.prior import fingerprints
from analysis.validation.suite_tables import tables_of

HERE = Path(__file__).parent
TARGET = HERE.parent / "analysis" / "fitting" / "field_prior.json"
WIDTHS = {"alpha": 0.4, "beta": 0.4, "E": 0.25, "k": 0.6}
OWN = ("headline", "compute", "designed", "isoflop", "cpu", "steplaw2025")
_LEAST_FLOOR = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the shipped prior")
    parser.add_argument("--check", action="store_true", help="compare with the shipped prior")
    asked = parser.parse_args()
    tables, _ = tables_of([HERE / "published.toml"], root=asked.root)
    found: dict[str, list[dict[str, float]]] = {}
    rows: dict[str, set[str]] = {}
    for table in tables:
        if table.group in OWN:
            continue
        result = fit("bottleneck", table.runs, bootstrap=0)
        values = {p: result.params[p] for p in WIDTHS}
        values["E"] /= float(table.runs["L"].min())
        if values["E"] > _LEAST_FLOOR:
            found.setdefault(table.group, []).append(values)
            rows.setdefault(table.group, set()).update(fingerprints(table.runs))
    groups = {
        name: {p: round(float(np.median([v[p] for v in each])), 3) for p in WIDTHS}
        | {"rows": " ".join(sorted(rows[name]))}
        for name, each in found.items()
    }
    for name, values in groups.items():
        print(name, {p: values[p] for p in WIDTHS}, len(values["rows"].split()), "rows")
    shipped = json.loads(TARGET.read_text())
    if asked.write:
        shipped |= {"widths": WIDTHS, "relative": ["E"], "collections": groups}
        TARGET.write_text(json.dumps(shipped, indent=1) + "\n")
    same = {n: {p: v[p] for p in WIDTHS} for n, v in shipped.get("collections", {}).items()}
    far = max(
        (abs(np.log(v[p] / same[n][p])) for n, v in groups.items() if n in same for p in WIDTHS),
        default=np.inf,
    )
    print(f"collections={len(groups)} largest_log_change={far:.3g}")
    if asked.check and not far < 0.02:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
