"""Functions of the native core; native/python binds them, and their callers describe them."""

from typing import Any

def __getattr__(name: str) -> Any: ...
