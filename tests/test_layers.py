import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("scaleexp", "analysis")
CONTRACT = {
    f"scaleexp{name}"
    for name in (
        *("", ".errors", ".schema", ".laws", ".storage", ".integrity", ".segment", ".redact", ".at_once"),
        ".growth",  # which fields of a study are frozen
    )
}
COMMANDS = {"scaleexp.cli", "scaleexp.cmd_advise", "scaleexp.cmd_live"}
LAYERS = [line for line in Path(__file__).with_name("layers.txt").read_text().splitlines() if line and line[0] != "#"]


def module_files() -> dict[str, Path]:
    """Module name -> file, for both packages."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = module_files()


def imported(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """What one statement imports; `from a import b` is the module a.b if there is one, else something of a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = module.split(".") if is_package else module.split(".")[:-1]
        base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
        source = ".".join(part for part in (base, node.module) if part)
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            yield inner if inner in MODULES else source


def is_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(source: str, module: str, *, is_package: bool = False, lazy: bool = True) -> set[str]:
    """Everything that a module imports; where `lazy` is False, only what importing it executes."""
    tree = ast.parse(source)
    if not lazy:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node):
                node.body = []
    return {name for node in ast.walk(tree) for name in imported(node, module, is_package)}


def imports_of(module: str, *, lazy: bool = True) -> set[str]:
    file = MODULES[module]
    return imports(file.read_text(encoding="utf-8"), module, is_package=file.name == "__init__.py", lazy=lazy)


def upward(module: str, names: set[str], layers: list[str]) -> list[str]:
    """Our own modules among `names` that do not lie below `module`."""
    below = set(layers[: layers.index(module)])
    return sorted(name for name in names if name in layers and name not in below and name != module)


def reaches(names: set[str], library: str) -> bool:
    return any(name == library or name.startswith(f"{library}.") for name in names)


def test_every_module_has_one_line_in_layers_txt():
    missing = sorted(set(MODULES) - set(LAYERS))
    assert not missing, f"add to tests/layers.txt, below what they import: {', '.join(missing)}"
    assert len(LAYERS) == len(set(LAYERS))
    assert set(LAYERS) <= set(MODULES), f"no longer there: {set(LAYERS) - set(MODULES)}"


@pytest.mark.parametrize("module", sorted(set(MODULES) & set(LAYERS)))
def test_imports_point_down_only(module):
    assert upward(module, imports_of(module), LAYERS) == []


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("analysis")))
def test_analysis_knows_the_contract_alone_and_neither_torch_nor_ray(module):
    names = imports_of(module)
    assert {name for name in names if name in MODULES and name.startswith("scaleexp")} <= CONTRACT
    assert not reaches(names, "torch")
    assert not reaches(names, "ray")


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("scaleexp")))
def test_only_the_command_line_reaches_analysis_and_only_when_it_needs_it(module):
    assert not reaches(imports_of(module, lazy=module not in COMMANDS), "analysis")


@pytest.mark.parametrize("module", sorted(module for module in MODULES if not module.startswith("scaleexp.launch")))
def test_everything_that_knows_ray_lives_in_launch(module):
    assert not reaches(imports_of(module), "ray")


@pytest.mark.parametrize("module", sorted({"scaleexp.cli", "scaleexp.plan", "analysis.cli"} & set(MODULES)))
def test_help_waits_for_no_heavy_library(module):
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        names = imports_of(name, lazy=False)
        assert not reaches(names, "torch"), name
        assert not reaches(names, "ray"), name
        waiting |= {found for found in names if found in MODULES} - seen


def test_what_only_a_function_or_a_type_checker_imports_is_not_executed():
    source = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    import c\n"
    assert imports(source, "m", lazy=False) == {"a"}
    assert imports(source, "m") == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from scaleexp import plan", ["scaleexp.plan"]),
        ("import scaleexp.plan as p", ["scaleexp.plan"]),
        ("from scaleexp.plan import make_plan", ["scaleexp.plan"]),
        ("from . import plan", ["scaleexp.plan"]),
        ("from .plan import make_plan", ["scaleexp.plan"]),
        ("def f():\n    from scaleexp.plan import make_plan", ["scaleexp.plan"]),
        ("if TYPE_CHECKING:\n    from scaleexp.plan import make_plan", ["scaleexp.plan"]),
        ("from scaleexp.errors import ConfigError", []),
    ],
)
def test_a_planted_upward_import_is_seen(source, found):
    assert upward("scaleexp.plugins", imports(source, "scaleexp.plugins"), LAYERS) == found
