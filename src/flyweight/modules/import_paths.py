"""Import functions that users name by ``package.module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from flyweight.errors import ModelError

__all__ = ["import_path"]


def import_path(path: str, what: str) -> Callable[..., Any]:
    """Import the function or class that ``package.module:function`` names.

    Importing runs the code of the module: never take a path from a file of weights.

    Args:
        path: after the colon also attributes of attributes, as in ``package.module:Net.small``.
        what: names the path in errors, such as "architecture".

    Raises:
        ModelError: the path has another form, its module cannot be imported, or it names no
            function.

    Example:
        >>> import_path("torch.nn:Identity", "architecture")
        <class 'torch.nn.modules.linear.Identity'>
    """
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ModelError(f"{what} {path!r} has not the form package.module:function; write it so")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # importing runs the module, which may do anything
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            reason = "the module calls sys.exit"
        raise ModelError(
            f"{what} {path!r} cannot be imported ({reason}); give package.module:function of a "
            "module on the Python path"
        ) from error
    if not callable(found):
        raise ModelError(f"{what} {path!r} is a {type(found).__name__}; name a function")
    function: Callable[..., Any] = found
    return function
