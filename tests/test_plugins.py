import sys

import pytest

from scaleexp.errors import ConfigError
from scaleexp.plugins import check_name, nearest, resolve


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution on the path that declares one rule and one data set."""
    (tmp_path / "cubes.py").write_text("def cube(kappa):\n    return kappa**3\n\nclass Box:\n    side = 4\n")
    info = tmp_path / "cubes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cubes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[scaleexp.rules]\ncube = cubes:cube\nbroken = cubes:absent\n\n[scaleexp.data_sets]\nbox = cubes:Box\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("cubes", None)


def test_a_built_in_name_is_that_object():
    assert resolve("length", {"length": len}, "rule") is len


def test_module_and_attribute_need_no_registration(installed):
    assert resolve("cubes:cube", {}, "rule")(2) == 8
    assert resolve("cubes:Box.side", {}, "rule") == 4


def test_an_installed_package_adds_a_name_by_entry_point(installed):
    assert resolve("cube", {}, "rule")(2) == 8


def test_a_kind_of_two_words_has_a_group_with_an_underscore(installed):
    assert resolve("box", {}, "data set").side == 4


def test_a_built_in_name_wins_over_an_entry_point(installed):
    assert resolve("cube", {"cube": abs}, "rule") is abs


def test_checking_a_name_imports_nothing(installed):
    check_name("cube", {}, "rule")
    check_name("cubes:cube", {}, "rule")
    assert "cubes" not in sys.modules


def test_the_nearest_name_is_suggested_among_built_in_and_installed_ones(installed):
    with pytest.raises(ConfigError, match="There is no rule 'cubs'; did you mean 'cube'"):
        resolve("cubs", {"sqrt": abs}, "rule")


@pytest.mark.parametrize("name", ["no_such_module:f", "math:no_such_function", "broken"])
def test_what_cannot_be_imported_is_one_sentence(installed, name):
    with pytest.raises(ConfigError, match=f"Cannot load the rule '{name}': .*[^.]\\.$"):
        resolve(name, {}, "rule")


@pytest.mark.parametrize("name", ["", ":", "math:", ":sqrt"])
def test_half_a_name_is_no_name(name):
    with pytest.raises(ConfigError, match="There is no rule"):
        resolve(name, {"sqrt": abs}, "rule")


def test_without_any_valid_name_it_says_so():
    assert nearest("x", []) == "valid: none at all."
