"""Functions of the native core, bound in native/python; the modules that call them describe them."""

from typing import Any

def __getattr__(name: str) -> Any: ...
