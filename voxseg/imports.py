"""Classes that a config names by their import path, such as `monai.networks.nets:UNet`.

Importing runs code: whoever makes an object of a config has to trust that config.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from voxseg.errors import UserError

__all__ = ["make_imported", "told"]


def make_imported(path: str, arguments: Mapping[str, Any], subject: str) -> Any:
    """What the class, or any function, makes of its arguments.

    Args:
        path: of the class, "package.module:Class".
        arguments: by name.
        subject: what an error is about.

    Raises:
        UserError: it cannot be imported, or fails.
    """
    module, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ImportError as error:
        remedy = "install the package, or put the folder of your file on PYTHONPATH"
        raise UserError(subject, f"cannot be imported ({told(error)})", remedy) from error
    except AttributeError as error:
        raise UserError(subject, f"{module} has no '{name}'", "correct the name behind the colon") from error
    except Exception as error:
        raise UserError(subject, f"fails when imported ({told(error)})", f"correct {module}") from error
    try:
        return factory(**arguments)
    except UserError:  # says it better
        raise
    except Exception as error:
        raise UserError(subject, f"cannot be made ({told(error)})", "correct its arguments") from error


def told(error: Exception) -> str:
    """An exception of somebody else's code on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."
