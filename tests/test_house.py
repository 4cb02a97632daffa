"""The house keeps its promises: the README's commands and file tree, the requirements, and what a clone contains."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import core

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MAX_BYTES = 30 * 2**20
# Import names that differ from the name of the package that brings them.
PACKAGE_OF = {"PIL": "pillow", "skimage": "scikit-image", "huggingface_hub": "huggingface-hub"}
PACKAGE_OF |= {"gradio_client": "gradio"}
# The packages that bring these are requirements of the ones we name: (import name, our requirement).
PACKAGE_OF |= {"_pytest": "pytest", "playwright": "pytest-playwright", "httpx": "gradio", "fastapi": "gradio"}
PACKAGE_OF |= {"mcp": "gradio", "anyio": "gradio", "starlette": "streamlit", "argon2": "argon2-cffi"}
PACKAGE_OF |= {"joserfc": "streamlit", "google": "streamlit", "websockets": "streamlit"}
PACKAGE_OF |= {"pandas": "streamlit", "uvicorn": "streamlit", "httpx2": "huggingface-hub"}


@cache
def files() -> list[Path]:
    """Every file that belongs to the project; what else lies in somebody's folder is theirs."""
    command = ["git", "ls-files", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout, so nobody knows which files belong to the project ({error})")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def requirement_lines(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def required(*names: str) -> set[str]:
    """The packages that requirement files name, in lower case with hyphens."""
    found = [re.match(r"[\w.-]+", line) for name in names for line in requirement_lines(name)]
    return {match[0].lower().replace("_", "-") for match in found}


# README --------------------------------------------------------------------------------------------------------------


def readme_tree() -> list[str]:
    """The paths of the file tree: the README's fenced block whose first line is ``app.py``, two spaces a level."""
    block = next((b for b in re.findall(r"```\w*\n(.*?)```", README, re.S) if b.startswith("app.py")), None)
    assert block, "The README has no file tree: a fenced block that starts with app.py"
    paths, parents = [], []
    for line in filter(str.strip, block.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name.rstrip("/")]
        paths.append("/".join(parents) + ("/" if name.endswith("/") else ""))
    return paths


def commands() -> list[str]:
    """The lines of the README's shell blocks, without comments and prompts."""
    lines = "\n".join(re.findall(r"```(?:sh|bash|console)\n(.*?)```", README, re.S)).splitlines()
    return [line for line in (line.split(" #")[0].strip().removeprefix("$ ") for line in lines) if line]


def test_every_path_of_the_readme_tree_exists() -> None:
    tree = readme_tree()
    missing = [name for name in tree if not ((ROOT / name).is_dir() if name.endswith("/") else (ROOT / name).is_file())]
    assert missing == []
    assert len(set(tree)) == len(tree)


def test_the_readme_tree_names_everything_at_the_top() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in files()}
    plain = {".gitignore", ".gitattributes"}
    named = {name.split("/")[0] for name in readme_tree()}
    assert top - named - plain == set()


def test_the_readme_tree_names_every_module() -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in files() if path.suffix == ".py"}
    modules = {name for name in modules if not name.startswith("tests/") and not name.endswith("__init__.py")}
    assert modules - set(readme_tree()) == set()


def test_every_path_in_a_command_of_the_readme_exists() -> None:
    words = [word.strip("`'\"") for line in commands() for word in line.split()]
    rooms = ("core/", "demo/", "studio/", "assets/", "benchmarks/", "tests/")
    assert [word for word in words if word.startswith(rooms) and not (ROOT / word).exists()] == []


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.M))
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join([*commands(), *re.findall(r"`([^`\n]+)`", README)])))
    assert {"run", "test"} <= named
    assert named - targets == set()


def test_every_module_and_subcommand_of_the_readme_exists() -> None:
    called = re.findall(r"-m (core|demo|studio|tests|benchmarks)((?:\.\w+)*)(?: ([a-z][\w-]*)\b(?![./]))?", README)
    assert [room + rest for room, rest, _ in called if importlib.util.find_spec(room + rest) is None] == []
    wanted = {word for room, rest, word in called if (room, rest) == ("core", "") and word}
    if wanted:
        command = [sys.executable, "-m", "core", "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert {word for word in wanted if not re.search(rf"\b{re.escape(word)}\b", done.stdout)} == set()


def test_the_front_matter_of_the_space_fits() -> None:
    matter = dict(line.split(": ", 1) for line in README.split("---\n")[1].splitlines())
    assert matter["sdk"] == "gradio"
    plain = [re.sub(r"\[.*?\]", "", line) for line in requirement_lines("requirements.txt")]
    assert f"gradio=={matter['sdk_version'].strip()}" in plain
    assert (ROOT / matter["app_file"]).is_file()
    assert (ROOT / matter["license_file"]).is_file() if "license_file" in matter else matter["license"] == "apache-2.0"


# What a clone contains -----------------------------------------------------------------------------------------------


def test_no_file_names_a_folder_of_one_machine_or_a_registry() -> None:
    folders = "|".join(["work", "opt", "root", "home", "Users", "mnt"])
    hosts = [("py" + "pi", "org"), ("python" + "hosted", "org"), ("download.py" + "torch", "org")]
    hosts += [("npm" + "js", "org"), ("deb." + "debian", "org"), ("conda.ana" + "conda", "org")]
    machine = re.compile(rf"(?<![\w.$}})/<*-])/(?:{folders})/\w")
    registry = re.compile("|".join(re.escape(".".join(host)) for host in hosts))
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line) or registry.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []


def test_no_file_is_too_large_for_a_clone() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in files() if path.stat().st_size > MAX_BYTES}
    assert large == {}


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert project["version"] == core.__version__ == newest[1]


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^make test$", script.read_text(encoding="utf-8"), re.M)


# Requirements --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_capped(name: str) -> None:
    """A cap is ``==`` or ``<``. Without one torch would follow its newest CUDA build, and any other its next break."""
    versions = [line.split(";")[0] for line in requirement_lines(name)]
    assert [line for line in versions if not re.search(r"==\d|<\d", line)] == []


def test_requirements_name_what_the_project_promises() -> None:
    promised = "gradio streamlit torch transformers diffusers xformers pydicom sqlalchemy huggingface-hub"
    assert set(promised.split()) - required("requirements.txt") == set()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("core", "demo", "studio", "app.py"), ["requirements.txt"]),
        (("tests", "benchmarks"), ["requirements.txt", "requirements-dev.txt"]),
    ],
    ids=["product", "tests"],
)
def test_every_import_is_a_requirement(folders: tuple[str, ...], names: list[str]) -> None:
    own = {"core", "demo", "studio", "app", "tests", "benchmarks"}
    found: dict[str, str] = {}
    for path in [ROOT / "app.py", *python_files(*folders)] if "app.py" in folders else python_files(*folders):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else ():
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {module.split(".")[0]: str(path.relative_to(ROOT)) for module in modules}
    packages = {
        name: PACKAGE_OF.get(name, name.lower().replace("_", "-"))
        for name in found
        if name not in own and name not in sys.stdlib_module_names
    }
    assert {name: found[name] for name, package in packages.items() if package not in required(*names)} == {}
