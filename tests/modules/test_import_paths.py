"""import_path()."""

import collections

import pytest

from flyweight.errors import ModelError
from flyweight.modules import import_path


def test_import_path_returns_functions_classes_and_their_attributes():
    assert import_path("collections:OrderedDict", "architecture") is collections.OrderedDict
    assert import_path("collections:OrderedDict.fromkeys", "x")("ab") == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.nn", "task 'torch.nn' has not the form package.module:function; write it so"),
        ("torch.nn:", "has not the form"),
        (":Linear", "has not the form"),
        ("no_such:task", r"cannot be imported \(ModuleNotFoundError: No module named 'no_such'\)"),
        ("json:no_such", r"cannot be imported \(AttributeError: .*; give package.module:function"),
        ("leaving:task", r"'leaving:task' cannot be imported \(the module calls sys.exit\)"),
        ("string:digits", "task 'string:digits' is a str; name a function"),
    ],
)
def test_import_path_says_what_to_give(tmp_path, monkeypatch, path, message):
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=message):
        import_path(path, "task")
