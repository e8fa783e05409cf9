"""What is said of a package that is not installed, and of what else keeps a module from being imported."""

from __future__ import annotations

import importlib
import sys

import pytest

from sb3_clanker import MissingDependencyError
from sb3_clanker.dependencies import CONTRIB, required_for


def test_a_missing_package_is_named_as_pip_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.callbacks", None)
    with pytest.raises(MissingDependencyError) as caught, required_for("A sweep", CONTRIB):
        importlib.import_module("stable_baselines3.common.callbacks")
    assert caught.value.package == "stable-baselines3"
    assert str(caught.value) == (
        "A sweep needs the package stable-baselines3, which is not installed. "
        "Install it: pip install 'sb3-clanker[contrib]'"
    )


def test_a_function_that_imports_may_be_decorated(monkeypatch: pytest.MonkeyPatch) -> None:
    @required_for("Twice")
    def load() -> object:
        return importlib.import_module("gymnasium")

    assert load() is sys.modules["gymnasium"]
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for _ in range(2):
        with pytest.raises(MissingDependencyError, match=r"^Twice needs .* gymnasium, .*: pip install sb3-clanker$"):
            load()


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'sb3_clanker.typo'", name="sb3_clanker.typo"),
        ModuleNotFoundError("who knows"),
        ImportError("libcudart.so.12: cannot open shared object file", name="onnxruntime"),
    ],
)
def test_what_is_no_missing_package_stays_what_it_is(error: ImportError) -> None:
    with pytest.raises(type(error)) as caught, required_for("A sweep"):
        raise error
    assert caught.value is error
