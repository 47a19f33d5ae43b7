"""What the repository says about itself agrees: dependencies, versions, commands, paths."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
README = (ROOT / "README.md").read_text("utf8")
URL = PROJECT["project"]["urls"]["Homepage"]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf8")


def names(requirements: list[str]) -> set[str]:
    """Distribution names of a list of requirements."""
    return {re.match(r"[\w.-]+", line)[0].lower() for line in requirements}


def tracked() -> list[Path]:
    """Files of the repository, or all below it where there is no git."""
    try:
        call = ["git", "-C", str(ROOT), "ls-files"]
        listed = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def test_conda_installs_the_project_itself_with_all_extras():
    listed = yaml.safe_load(read("environment.yml"))["dependencies"]
    pip = [part["pip"] for part in listed if isinstance(part, dict)]
    assert pip == [["-e .[all]"]]
    others = {re.match(r"\w+", line)[0] for line in listed if isinstance(line, str)}
    assert others <= {"python", "pip", "make"}, "the list of packages lives in pyproject.toml alone"


def test_the_extra_all_holds_every_other_extra():
    inside = re.search(r"\[(.*)\]", EXTRAS["all"][0])[1].split(",")
    assert set(inside) == set(EXTRAS) - {"all"}


def test_what_a_reader_expects_is_installed():
    every = names([line for lines in [PROJECT["project"]["dependencies"], *EXTRAS.values()] for line in lines])
    wanted = "torch torchvision timm jupyter jupyter-book papermill ipywidgets lpips seaborn"
    assert set(wanted.split()) <= every


@pytest.mark.parametrize("name", ["jupyter-book", "sphinx", "sphinx-book-theme"])
def test_the_book_stack_is_pinned_and_nothing_else(name):
    pinned = {re.match(r"[\w.-]+", line)[0] for lines in EXTRAS.values() for line in lines if "==" in line}
    assert name in pinned
    assert len(pinned) == 3


# Where the name of an import is not that of the distribution that brings it.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "jupyter_client": "ipykernel"}
CORE = names(PROJECT["project"]["dependencies"])
ROOMS = {
    "show": CORE | names(EXTRAS["show"]),
    "book": CORE | names(EXTRAS["show"]) | names(EXTRAS["cluster"]) | names(EXTRAS["book"]),
}


@pytest.mark.parametrize("path", sorted((ROOT / "invkit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_dependencies_of_the_room(path):
    allowed = ROOMS.get(path.relative_to(ROOT / "invkit").parts[0], CORE) | {"invkit"}
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    distributions = {DISTRIBUTIONS.get(name, name).lower() for name in imported - sys.stdlib_module_names}
    assert not distributions - allowed


def test_every_dependency_of_the_core_is_imported_somewhere():
    texts = [path.read_text("utf8") for path in (ROOT / "invkit").rglob("*.py")]
    modules = {distribution: module for module, distribution in DISTRIBUTIONS.items()}
    for name in CORE:
        pattern = re.compile(rf"^\s*(import|from) {modules.get(name, name)}\b", re.M)
        assert any(map(pattern.search, texts)), f"nothing imports {name}"


def test_extras_build_upon_each_other():
    assert "invkit" in names(EXTRAS["book"]), "the book draws: its extra includes `show`"
    assert "invkit[show]" in EXTRAS["book"]
    assert not CORE & names(EXTRAS["show"])
    assert not (CORE | names(EXTRAS["show"])) & names(EXTRAS["book"])


WITHOUT_EXTRAS = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        absent = name.split(".")[0] in {blocked} or name.startswith("jupyter")
        return None if absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
import invkit as ik
from invkit.testing import tiny_target

result = ik.deep_inversion(tiny_target(), [0, 1], ik.DeepInversionConfig.for_profile("ci", steps=1))
assert result.images.shape == (2, 3, 8, 8)
for room in ("show", "book"):
    try:
        __import__(f"invkit.{{room}}")
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{room}} was imported without its extra: nothing was blocked")
"""


def test_the_core_works_without_the_extras(tmp_path):
    blocked = {"matplotlib", "seaborn", "pandas", "ipywidgets", "papermill", "nbformat", "IPython", "ipykernel", "yaml"}
    call = [sys.executable, "-c", WITHOUT_EXTRAS.format(blocked=blocked)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_files_beside_the_code_are_installed_with_it():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["invkit"]
    beside = [p for p in tracked() if p.is_relative_to(ROOT / "invkit") and p.suffix != ".py"]
    assert beside
    covered = {p for pattern in patterns for p in (ROOT / "invkit").glob(pattern)}
    assert not set(beside) - covered


def test_versions_agree():
    version = PROJECT["project"]["version"]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert re.search(r"^## (\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.M)[1] == version
    from importlib.metadata import version as installed

    import invkit

    assert invkit.__version__ == version
    assert installed("invkit") == version, "installed from another state: run `make setup`"


def test_the_readme_commands_exist():
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S))
    targets = set(re.findall(r"^make (\w+)", blocks, re.M))
    assert {"book", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", read("Makefile"), re.M), target
    assert "papermill notebooks/01_deepinversion.ipynb" in blocks
    help_text = subprocess.run([sys.executable, "-m", "invkit.run", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert help_text.returncode == 0
    assert "--profile" in help_text.stdout


def test_the_readme_import_example_uses_public_names():
    import invkit

    block = re.search(r"```python\n(.*?)```", README, re.S)[1]
    public = re.search(r"from invkit import (.*)", block)[1].split(", ")
    assert not [name for name in public if not hasattr(invkit, name)]
    compile(block, "README", "exec")


def test_files_that_the_readme_names_exist():
    linked = re.findall(r"\]\(([^)h][^)]*)\)", README)
    assert linked
    assert not [name for name in linked if not (ROOT / name).is_file()]


def test_ci_calls_the_readme_commands():
    script = read(".ci/run")
    assert "make test" in script
    assert "make book" in script
    assert (ROOT / ".ci/run").stat().st_mode & 0o111, ".ci/run is not executable"


def test_ci_says_once_more_what_the_build_warned_of(tmp_path):
    build = "  FAILED      02_x  3 s\\nreading\\n/a/01.ipynb: WARNING: the run refutes the sentence x\\nwriting\\n"
    stubs = {"make": f"[ $1 = test ] || {{ printf '{build}'; exit 1; }}", "apt-get": ""}
    for command, script in stubs.items():
        (tmp_path / command).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / command).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run([ROOT / ".ci/run"], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    after = run.stdout.partition("== tests: passed")[2].splitlines()
    assert {"  FAILED      02_x  3 s", "/a/01.ipynb: WARNING: the run refutes the sentence x"} <= set(after)


def test_the_repository_address_is_the_same_everywhere():
    config = yaml.safe_load(read("_config.yml"))
    assert config["repository"]["url"] == URL
    assert yaml.safe_load(read("CITATION.cff"))["repository-code"] == URL
    for name in ("README.md", "book/intro.md", "book/setup.md", "book/responsible_use.md"):
        assert set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", read(name))) <= {URL}, name


def test_no_file_names_a_machine():
    pattern = re.compile(r"(?<![\w.])/(?:home|Users|work|root|mnt)/[\w.-]+|file:///\w")
    found = []
    for path in tracked():
        if path.suffix in {".png", ".webp", ".safetensors", ".npz", ".js"} or path == Path(__file__):
            continue
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in pattern.findall(path.read_text("utf8"))]
    assert not found


def test_no_large_files():
    large = {p.name for p in tracked() if p.stat().st_size > 1 << 20} - {"tex-svg.js"}
    assert not large


@pytest.mark.parametrize("broken", [False, True], ids=["pair", "no pair"])
def test_the_pair_of_torch_and_torchvision_is_checked(tmp_path, broken):
    if broken:  # a torchvision without its compiled operators
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision/__init__.py").touch()
        ops = "def nms(*a): raise RuntimeError('operator torchvision::nms does not exist')"
        (tmp_path / "torchvision/ops.py").write_text(ops)
    call = [sys.executable, str(ROOT / "tools/check_torch.py")]
    done = subprocess.run(call, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == int(broken)
    if broken:
        assert "do not work together" in done.stderr
        assert "pip install torch torchvision" in done.stderr
    else:
        assert "matching pair" in done.stdout
