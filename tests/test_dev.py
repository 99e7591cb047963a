"""dev.py: finding ComfyUI, the environment, the split of the tests, the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lags_pack.tests.published import ROOT, pyproject, script


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """dev.py as a fresh module, in an empty pack, in an empty home, with none of its settings."""
    module, pack = script("dev.py"), tmp_path / "somewhere" / "else" / "my-pack"
    (pack / "tests" / "comfyui").mkdir(parents=True)
    (pack / "requirements.txt").write_text("# a comment\nmatplotlib>=3.7  # plots\n\n")
    monkeypatch.setattr(module, "ROOT", pack)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "LAGS_VENV", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    return module


def make_comfyui(folder: Path, version: str = "0.33.0") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("raise SystemExit('must not be run')")
    text = f'# generated\n__version__ = "{version}"\nraise SystemExit("must not be imported")\n'
    (folder / "comfyui_version.py").write_text(text)
    return folder


def make_file(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- finding ComfyUI ------------------------------------------------------------------------


def test_comfyui_path_wins_then_the_surrounding_one_then_home(dev, tmp_path):
    named, around = make_comfyui(tmp_path / "named"), make_comfyui(tmp_path / "around")
    home, pack, alone = tmp_path / "home", around / "custom_nodes" / "lags", tmp_path / "x/y/lags"
    at_home = make_comfyui(home / "ComfyUI")
    assert dev.find_comfyui({"COMFYUI_PATH": str(named)}, pack, home) == named
    assert dev.find_comfyui({}, pack, home) == around
    assert dev.find_comfyui({"COMFYUI_PATH": ""}, pack, home) == around
    assert dev.find_comfyui({}, alone, home) == at_home
    assert dev.find_comfyui({}, alone, tmp_path) is None
    for missing in ("main.py", "comfy"):  # half a ComfyUI is none
        (at_home / missing).rename(at_home / "gone")
        assert dev.find_comfyui({}, alone, home) is None
        with pytest.raises(dev.Problem, match=re.escape(f"COMFYUI_PATH is {at_home}")):
            dev.find_comfyui({"COMFYUI_PATH": str(at_home)}, tmp_path, tmp_path)
        (at_home / "gone").rename(at_home / missing)


def test_interpreters_are_tried_in_order_and_reasons_are_kept(dev, tmp_path):
    comfyui = make_comfyui(tmp_path / "portable" / "ComfyUI")
    inner = make_file(dev.python_of(comfyui / ".venv"))
    second = make_file(dev.python_of(comfyui / "venv"))
    portable = make_file(tmp_path / "portable" / "python_embeded" / "python.exe")
    order = [inner, second, portable, Path(sys.executable)]
    for count, expected in enumerate(order):
        broken = order[:count]
        found, _ = dev.find_interpreter(comfyui, {}, lambda p, b=broken: "no torch" * (p in b))
        assert found == expected
    found, reasons = dev.find_interpreter(comfyui, {}, lambda python: "no torch")
    assert found is None
    assert all(f"{python}: no torch" in reasons for python in order)


def test_comfyui_python_is_used_or_an_error(dev, tmp_path):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    make_file(dev.python_of(comfyui / ".venv"))
    named = make_file(tmp_path / "bin" / "python")
    environ = {"COMFYUI_PYTHON": str(named)}
    assert dev.find_interpreter(comfyui, environ, lambda python: "")[0] == named
    with pytest.raises(dev.Problem, match=f"COMFYUI_PYTHON is {re.escape(str(named))}.*no yaml"):
        dev.find_interpreter(comfyui, environ, lambda python: "no yaml" * (python == named))


def test_no_comfyui_is_a_reason_but_a_setting_that_fails_is_an_error(dev, tmp_path, monkeypatch):
    assert "no ComfyUI was found" in dev.locate_comfyui()
    os.environ["COMFYUI_PYTHON"] = sys.executable
    with pytest.raises(dev.Problem, match="COMFYUI_PATH"):
        dev.locate_comfyui()
    del os.environ["COMFYUI_PYTHON"]

    comfyui = make_comfyui(tmp_path / "home" / "ComfyUI")
    monkeypatch.setattr(dev, "COMFYUI_NEEDS", "import a_module_that_nobody_has")
    reason = dev.locate_comfyui()
    assert str(comfyui) in reason and "a_module_that_nobody_has" in reason
    os.environ["COMFYUI_PATH"] = str(comfyui)
    with pytest.raises(dev.Problem, match="Set COMFYUI_PYTHON"):
        dev.locate_comfyui()

    monkeypatch.setattr(dev, "COMFYUI_NEEDS", "import os")
    assert dev.locate_comfyui() == dev.ComfyUI(comfyui, Path(sys.executable))


def test_version_is_read_without_running_anything(dev, tmp_path):
    folder = make_comfyui(tmp_path / "ComfyUI", "0.8.0")
    python = tmp_path / "python"
    assert dev.comfyui_version(folder) == "0.8.0"
    assert str(dev.ComfyUI(folder, python)) == f"ComfyUI 0.8.0 at {folder} with {python}"
    (folder / "comfyui_version.py").unlink()
    assert dev.comfyui_version(folder) == "of unknown version"


# ---- the environment ------------------------------------------------------------------------


def test_requirements_are_the_pin_the_tools_and_requirements_txt(dev):
    wanted = dev.requirements()
    assert wanted[0] == dev.TORCH
    assert wanted[-1] == "matplotlib>=3.7"
    assert "pytest" in wanted
    assert dev.fingerprint(wanted) == dev.fingerprint(list(wanted))
    assert dev.fingerprint(wanted) != dev.fingerprint([*wanted, "mypy"])
    assert dev.fingerprint(wanted) != dev.fingerprint(["torch==2.12.0", *wanted[1:]])


def test_the_packs_own_requirements_leave_a_comfyui_alone():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [found for line in lines if (found := line.split("#")[0].strip())]
    names = {re.match(r"[\w.-]+", line).group().lower() for line in lines}
    assert not {"torch", "torchvision", "torchaudio", "transformers", "numpy"} & names
    assert not [line for line in lines if re.search(r"==|<|~=|!=", line)]
    assert pyproject()["project"]["dependencies"] == lines


class FakeCommands:
    """Stands in for the processes that dev.py starts: `fails` names one that does not work."""

    def __init__(self, dev, monkeypatch):
        self.dev, self.done, self.fails, self.torch = dev, [], None, False
        monkeypatch.setattr(dev, "call", self.call)
        monkeypatch.setattr(dev, "ask", self.ask)

    def call(self, *command, **options):
        kind = "venv" if "venv" in command else "pip"
        self.done.append((kind, [str(part) for part in command]))
        if kind == self.fails:
            return 7
        if kind == "venv":
            make_file(self.dev.python_of(command[-1]))
        return 0

    def ask(self, python, code, folder=None):
        return (self.torch if "torch" in code else True), ""

    def kinds(self):
        kinds = [kind for kind, _ in self.done]
        self.done.clear()
        return kinds


@pytest.fixture
def commands(dev, monkeypatch):
    return FakeCommands(dev, monkeypatch)


def test_environment_is_made_once_and_renewed_when_the_list_changes(dev, commands):
    python = dev.ensure_environment()
    assert python == dev.python_of(dev.ROOT / ".venv")
    installed = commands.done[1][1]
    assert installed[0] == str(python)
    assert installed.index(dev.TORCH) < installed.index("numpy") < installed.index("ruff")
    assert "matplotlib>=3.7" in installed
    assert not [part for part in installed if "index" in part or "://" in part]
    assert commands.kinds() == ["venv", "pip"]

    assert dev.ensure_environment() == python
    assert commands.kinds() == []

    (dev.ROOT / "requirements.txt").write_text("matplotlib>=3.8\n")
    commands.torch = True
    dev.ensure_environment()
    assert dev.TORCH not in commands.done[0][1]  # a torch that is there is kept
    assert commands.kinds() == ["pip"]

    python.unlink()  # the Python that it was made with went away
    dev.ensure_environment()
    assert commands.kinds() == ["venv", "pip"]


def test_environment_goes_where_lags_venv_says_but_into_nobody_else_s(dev, commands, tmp_path):
    os.environ["LAGS_VENV"] = str(tmp_path / "there")
    assert dev.ensure_environment() == dev.python_of(tmp_path / "there")
    assert not (dev.ROOT / ".venv").exists()
    commands.kinds()
    theirs = make_file(dev.python_of(tmp_path / "theirs"))
    os.environ["LAGS_VENV"] = str(tmp_path / "theirs")
    with pytest.raises(dev.Problem, match="not made by dev.py"):
        dev.ensure_environment()
    assert theirs.is_file() and commands.kinds() == []


@pytest.mark.parametrize(
    ("fails", "said", "done", "again"),
    [
        ("pip", "exit code 7", ["venv", "pip"], ["pip"]),
        ("venv", "python3-venv", ["venv"], ["venv", "pip"]),  # a Python without ensurepip
    ],
)
def test_a_failed_step_is_told_and_is_tried_again(dev, commands, fails, said, done, again):
    commands.fails = fails
    with pytest.raises(dev.Problem, match=said) as caught:
        dev.ensure_environment()
    assert caught.value.code == 7 or fails == "venv"
    assert commands.kinds() == done
    commands.fails = None
    dev.ensure_environment()
    assert commands.kinds() == again


# ---- tests ----------------------------------------------------------------------------------


def test_tests_are_counted_from_the_source(dev, tmp_path):
    source = """
import pytest, a_module_that_nobody_has
def helper(): pass
def testing(): pass
def test_one(): pass
async def test_two(): pass
class TestMore:
    @pytest.mark.parametrize("x", [1, 2, 3])
    def test_three(self, x): pass
TEXT = "def test_not(): pass"
"""
    make_file(tmp_path / "t" / "test_a.py", source)
    make_file(tmp_path / "t" / "deeper" / "test_b.py", "def test_four(): pass")
    make_file(tmp_path / "t" / "conftest.py", "def test_no(): pass")
    assert dev.count_tests(tmp_path / "t") == 4
    assert dev.count_tests(tmp_path / "nowhere") == 0


def test_paths_choose_the_part_and_options_go_to_both(dev, monkeypatch):
    tests = dev.ROOT / "tests"
    plain_file = make_file(tests / "test_a.py")
    comfy_file = make_file(tests / "comfyui" / "test_b.py")
    browser_file = make_file(tests / "browser" / "test_c.py")
    skip = f"--ignore={tests / 'comfyui'}"

    plain, within = dev.split_arguments(["-k", "word"])
    assert plain == ["-k", "word", str(tests), f"--ignore={tests / 'browser'}", skip]
    assert within == ["-k", "word", str(tests / "comfyui")]
    plain, within = dev.split_arguments([])
    assert plain[:2] == [str(tests), f"--ignore={tests / 'browser'}"]
    assert plain[2:] == [*dev.PARALLEL, *dev.COVERAGE, skip]
    assert within == [str(tests / "comfyui"), *dev.PARALLEL]

    assert dev.split_arguments([str(plain_file), "-x"]) == (["-x", str(plain_file), skip], [])
    assert dev.split_arguments([f"{comfy_file}::test_z"]) == ([], [f"{comfy_file}::test_z"])
    assert dev.split_arguments([str(browser_file)]) == ([str(browser_file), skip], [])
    both = dev.split_arguments([str(tests), str(comfy_file)])
    assert both == ([str(tests), skip], [str(comfy_file)])

    monkeypatch.chdir(tests)
    assert dev.split_arguments(["test_a.py::test_x"])[0] == [f"{plain_file}::test_x", skip]


def test_the_fast_run_names_tests_that_are_there(dev):
    plain, within = dev.split_arguments(["--fast", "-x"])
    assert plain[0] == within[0] == "-x" and "--fast" not in [*plain, *within]
    assert within[1:] == [f"{dev.ROOT / 'tests' / 'comfyui'}/{name}" for name in dev.GRAPHS]
    names = [*dev.FAST_ROOMS, *dev.SLOW, *(f"tests/comfyui/{name}" for name in dev.GRAPHS)]
    for name in names:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), path
        function = test.partition("[")[0]
        assert not test or f"def {function}(" in (ROOT / path).read_text("utf-8"), test


def run_tests(dev, monkeypatch, comfyui, codes, arguments=()):
    """dev.test() with pytest replaced: it exits with the given codes."""
    left = list(codes)
    monkeypatch.setattr(dev, "ensure_environment", lambda: Path("own-python"))
    monkeypatch.setattr(dev, "locate_comfyui", lambda: comfyui)
    monkeypatch.setattr(dev, "borrowed_tools", lambda python: Path("tools"))
    monkeypatch.setattr(dev, "call", lambda *command, **options: left.pop(0))
    code = dev.test(list(arguments))
    assert not left
    return code


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (0, 5), (5, 0), (0, 4), (0, -9), (1, 1)])
def test_any_part_that_fails_fails_the_whole(dev, tmp_path, monkeypatch, capsys, codes):
    comfyui = dev.ComfyUI(make_comfyui(tmp_path / "ComfyUI"), Path("their-python"))
    code = run_tests(dev, monkeypatch, comfyui, codes)
    assert (code == 0) == (codes == (0, 0))
    plain, within = capsys.readouterr().out.splitlines()[-2:]
    assert ("passed" in plain) == (codes[0] == 0) == ("FAILED" not in plain)
    assert ("passed" in within) == (codes[1] == 0) == ("FAILED" not in within)
    assert f"ComfyUI 0.33.0 at {comfyui.path} with their-python" in within
    assert os.environ["COMFYUI_PATH"] == str(comfyui.path)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_without_comfyui_one_line_says_what_was_not_run(dev, monkeypatch, capsys):
    folder = dev.ROOT / "tests" / "comfyui"
    make_file(folder / "test_b.py", "def test_1(): 0\ndef test_2(): 0\n")
    os.environ["OMP_NUM_THREADS"] = "2"
    assert run_tests(dev, monkeypatch, "no ComfyUI was found", [0]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    for part in ("at least 2 tests not run", "no ComfyUI was found", "COMFYUI_PATH"):
        assert part in last
    assert os.environ["OMP_NUM_THREADS"] == "2"
    # Asking only for what cannot run is a failure.
    assert run_tests(dev, monkeypatch, "no ComfyUI was found", [], [str(folder)]) == 1


def test_sync_runs_in_comfyui_or_says_why_not(dev, tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "locate_comfyui", lambda: "no ComfyUI was found")
    with pytest.raises(dev.Problem, match="no ComfyUI was found: set COMFYUI_PATH"):
        dev.sync([])
    comfyui, called = dev.ComfyUI(tmp_path, Path("their-python")), []
    monkeypatch.setattr(dev, "locate_comfyui", lambda: comfyui)
    monkeypatch.setattr(dev, "call", lambda *command, **options: called.append(command) or 1)
    assert dev.sync(["--check"]) == 1
    module = ("_module", "tests.derived.sync", "--check")
    assert called == [(Path("their-python"), dev.ROOT / "dev.py", *module)]
    assert os.environ["COMFYUI_PATH"] == str(tmp_path)


def test_pytest_is_borrowed_with_their_python_and_our_pip_into_our_folder(dev, monkeypatch):
    theirs, installed = Path("/comfyui/bin/python"), []

    def ask(python, code, folder=None):
        if "version_info" in code:
            assert python == theirs
            return True, "3.13"
        if "pip.__path__" in code:
            assert python == dev.python_of(dev.ROOT / ".venv")
            return True, "/ours/pip"
        return code.endswith("import pytest") or bool(installed), ""

    monkeypatch.setattr(dev, "ask", ask)
    monkeypatch.setattr(dev, "pip", lambda *command: installed.append(command))
    folder = dev.ROOT / ".venv" / "comfyui-test-tools" / "3.13"
    assert dev.borrowed_tools(theirs) == folder
    command = (theirs, "/ours/pip", "install", "--upgrade", "--target", folder)
    assert installed == [(*command, "hypothesis", "pytest-xdist")]
    assert dev.borrowed_tools(theirs) == folder
    assert len(installed) == 1


# ---- commands, as real processes in a pack of their own -------------------------------------


@pytest.fixture
def pack(tmp_path):
    """A pack whose folder is no Python name, with relative imports and a nodes/ like ours."""
    folder = tmp_path / "my-pack"
    make_file(folder / "__init__.py", "from .nodes import NAME\n")
    make_file(folder / "nodes" / "__init__.py", "NAME = 'ours'\n")
    make_file(folder / "benchmarks" / "_shared.py")
    for name in ("dev.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def dev_py(pack: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(pack / "dev.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=pack, check=False)


def test_module_runs_as_part_of_the_pack(pack):
    source = """
import sys
from ..nodes import NAME
def main(argv):
    try:
        import nodes
    except ModuleNotFoundError:
        print(NAME, argv, sys.argv[1:], __name__)
    return 3
"""
    make_file(pack / "benchmarks" / "one.py", source)
    done = dev_py(pack, "_module", "benchmarks.one", "--json", "x")
    said = "ours ['--json', 'x'] ['--json', 'x'] lags_pack.benchmarks.one"
    assert done.stdout.split("\n")[0] == said, done.stderr
    assert done.returncode == 3


def test_pytest_runs_beside_a_root_with_relative_imports(pack):
    source = """
import pytest
def test_nodes_is_not_ours():
    with pytest.raises(ModuleNotFoundError):
        import nodes
"""
    make_file(pack / "tests" / "test_a.py", source)
    done = dev_py(pack, "_pytest", "", "-p", "no:cacheprovider", "tests")
    assert "1 passed" in done.stdout, done.stdout
    assert done.returncode == 0
    (pack / "tests" / "test_a.py").unlink()
    assert dev_py(pack, "_pytest", "", "tests").returncode == 5


def test_wrong_commands_get_a_sentence_and_a_list(dev, pack):
    make_file(pack / "benchmarks" / "heart.py")
    make_file(pack / "benchmarks" / "cost.py")
    for arguments, words in (
        (["bench"], "Which benchmark? There are: cost, heart."),
        (["bench", "hart"], "There is no benchmark 'hart'. There are: cost, heart."),
        (["bench", "_shared"], "There is no benchmark '_shared'. There are: cost, heart."),
        (["tset"], "There is no command 'tset'. There are: " + ", ".join(dev.COMMANDS) + "."),
    ):
        done = dev_py(pack, *arguments)
        assert done.stderr.strip() == f"[dev.py] {words}"
        assert done.returncode == 2
    assert "python3 dev.py demo" in dev_py(pack, "--help").stdout
