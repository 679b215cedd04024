"""The number of parameters of a run that nobody counted."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any


def counted(settings: Mapping[str, Any]) -> tuple[float, str] | None:
    """Return the parameters that the shapes in a run's settings give, and the convention in words;
    None if they do not."""
    if importlib.util.find_spec("analysis.importing.shapes") is None:
        return None
    module = importlib.import_module("analysis.importing.shapes")
    return module.count_from_shapes(settings)
