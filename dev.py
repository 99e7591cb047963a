"""Commands of the LAGS node pack. They need Python 3.10 or later and nothing else.

python3 dev.py demo [ARGS]        sample the bundled model plainly and with LAGS; with
                                  COMFYUI_PATH set, inside that ComfyUI
python3 dev.py test [ARGS]        run the tests; ARGS go to pytest
python3 dev.py test --fast        guidance, rewards, one ComfyUI graph of each kind (90 seconds)
python3 dev.py bench NAME [ARGS]  run a benchmark; --json FILE also writes its rows
python3 dev.py train [ARGS]       train the demo model again; scenes-NAME: the scene model's stages
python3 dev.py matrix [COMFYUI ...] [--transformers 4 5]
                                  run what hangs on them with each ComfyUI folder and transformers
python3 dev.py lint               check style, format and types
python3 dev.py sync               write what follows from the nodes: English texts, lines of help,
                                  widgets in workflows, the frozen record; needs ComfyUI, no server;
                                  --check only names the files that are stale
python3 dev.py workflows URL      check the workflows against a running ComfyUI that has this pack

The first command makes an environment in .venv next to this file and installs what is needed.
LAGS_VENV       another folder for that environment
COMFYUI_PATH    the ComfyUI for the tests and the demo; the tests also find the one that this
                pack lies in, and ~/ComfyUI
COMFYUI_PYTHON  the Python that has ComfyUI's packages; else the one in or next to ComfyUI
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(os.path.abspath(__file__)).parent  # not resolve(): custom_nodes may hold a link to us
PACK = "lags_pack"  # the name under which the pack is loaded outside ComfyUI
STAMP = "lags-environment.txt"  # marks an environment as ours; says what was installed in it

# Everything the commands need besides requirements.txt. torch is pinned here, in an environment
# of our own, so that tests and benchmarks measure the same arithmetic everywhere. It is never in
# requirements.txt: there a pin would replace the torch that fits the user's ComfyUI and GPU.
TORCH = "torch==2.13.0"
PACKAGES = (
    "torchvision==0.28.0",  # the one that belongs to this torch; transformers and open_clip want it
    "transformers>=4.50",
    "open_clip_torch",
    *("numpy", "safetensors", "pillow", "scipy", "scikit-learn"),
    *("pytest", "pytest-cov", "pytest-xdist", "hypothesis"),
    *("jaxtyping", "beartype", "ruff", "mypy"),
)
# A whole run: two files at a time, and how much of guidance/ and rewards/ the tests have run; the
# least is in pyproject.toml.
PARALLEL = ("--numprocesses=2", "--dist=loadfile")
COVERAGE = ("--cov", "--cov-config=pyproject.toml", "--cov-report=term:skip-covered")
# `test --fast`: these rooms without what takes long in them, and one graph of each kind inside
# ComfyUI. Scans of the source, packaging, faults and fuzz are for the whole run.
FAST_ROOMS = ("tests/guidance", "tests/rewards")
SLOW = (
    "tests/guidance/test_start.py::test_the_chain_with_a_tilted_start_draws_the_tilted_law",
    "tests/guidance/test_lidar.py::test_moves_the_mean_of_a_mixture_the_right_way",
    "tests/guidance/test_particles_exact.py::test_four_particles_are_right_on_average",
    "tests/guidance/test_particles_exact.py::test_settings_change_no_moment",
    "tests/guidance/test_particles_exact.py::test_the_heart",
    "tests/rewards/test_fairness.py",
    "tests/rewards/test_encoders.py::test_recomputing_keeps_a_quarter_or_less",
)
GRAPHS = (
    "test_samplers.py::test_same_seed_same_picture[balanced-demo]",
    "test_samplers.py::test_same_seed_same_picture[fast-demo]",
    "test_samplers.py::test_same_seed_same_picture[paper-demo]",
    "test_samplers.py::test_start_and_end_step_split[demo]",
    "test_samplers.py::test_guidance_node_under_sampler_custom_advanced[demo]",
    "test_methods.py::test_every_method_raises_the_score_and_leaves_nothing[dps-sd15]",
    "test_particle_sampler.py::test_methods[lags-demo]",
    "test_search.py::test_no_rounds_are_ksampler_bit_for_bit[demo]",
    "test_mmsold.py::test_pixels[nearest--1.0]",
    "test_visualize.py::test_plan_is_what_the_run_does[sd15-balanced-karras]",
    "test_score_images.py::test_ranks_as_the_plain_function_does",
)
# What the tests need and a ComfyUI lacks: modules, and the packages that bring them.
TEST_TOOLS = {"pytest": "pytest", "hypothesis": "hypothesis", "xdist": "pytest-xdist"}
COMFYUI_BENCHMARKS = ("cost", "full")  # those that count or measure ComfyUI's own networks
COMFYUI_NEEDS = "import torch, aiohttp, safetensors, transformers, einops, torchsde, yaml"


class Problem(Exception):
    """What is wrong and what to do about it, in words for the user; ends dev.py with `code`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """Print a line of our own, ahead of what the next child process prints."""
    print(f"[dev.py] {message}", flush=True)


def call(*command: str | Path, **options) -> int:
    """Run a command to its end and return its exit code."""
    return subprocess.run([str(part) for part in command], check=False, **options).returncode


def ask(python: Path, code: str, folder: Path | None = None) -> tuple[bool, str]:
    """Run a line of Python in another interpreter: whether it worked, and its last words."""
    command = [str(python), "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except OSError as error:
        return False, str(error)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"


# ---- the environment ------------------------------------------------------------------------


def environment_folder() -> Path:
    """Where the environment lies or will lie."""
    chosen = os.environ.get("LAGS_VENV")
    return Path(chosen).expanduser().absolute() if chosen else ROOT / ".venv"


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def requirements() -> list[str]:
    """All that the environment holds: torch first, our tools, and the pack's requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return [TORCH, *PACKAGES, *filter(None, lines)]


def fingerprint(wanted: Sequence[str]) -> str:
    """A hash of a requirement list: what the stamp of a finished environment holds."""
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()


def ensure_environment() -> Path:
    """The environment's interpreter, after making or renewing the environment where needed."""
    folder, wanted = environment_folder(), requirements()
    python, stamp = python_of(folder), folder / STAMP
    if not stamp.is_file() and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise Problem(
            f"{folder} exists and was not made by dev.py, so it is left as it is. Remove it, or "
            "set LAGS_VENV to a folder that does not exist yet."
        )
    if python.is_file() and stamp.read_text() == fingerprint(wanted):
        return python
    if not python.is_file() or not ask(python, "import pip")[0]:
        create_environment(folder)
    install(python, wanted)
    stamp.write_text(fingerprint(wanted))
    return python


def create_environment(folder: Path) -> None:
    """A fresh virtual environment with pip; what was left half made there is removed."""
    say(f"making an environment in {folder} with Python {sys.version.split()[0]}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).write_text("")
    if code := call(sys.executable, "-m", "venv", folder):
        raise Problem(
            f"Python's venv could not make an environment in {folder} (exit code {code}). On "
            "Debian and Ubuntu the package python3-venv is missing: `sudo apt install "
            "python3-venv`, then run this again. Elsewhere use a complete Python 3.10 or later.",
            code,
        )


def install(python: Path, wanted: Sequence[str]) -> None:
    """Install all in one go, so that nothing pulls another torch later; a torch there stays."""
    if ask(python, "import importlib.util as u; u.find_spec('torch').origin")[0]:
        wanted = [name for name in wanted if name != TORCH]
    elif sys.platform == "linux":
        say("torch's default Linux build has CUDA inside; pip's own settings can choose another")
    say(f"installing {', '.join(wanted)}")
    pip(python, "-m", "pip", "install", *wanted)


def pip(*command: str | Path) -> None:
    """Run pip, or end with its exit code."""
    if code := call(*command, "--disable-pip-version-check", "--no-input"):
        raise Problem(
            f"pip could not install the packages (exit code {code}; its reason stands above). "
            "Check the network, the free disk space, and that torch has a build for Python "
            f"{sys.version.split()[0]}, then run this again.",
            code,
        )


# ---- ComfyUI --------------------------------------------------------------------------------


class ComfyUI(NamedTuple):
    """A ComfyUI folder and an interpreter that can run it."""

    path: Path
    python: Path

    def __str__(self) -> str:
        return f"ComfyUI {comfyui_version(self.path)} at {self.path} with {self.python}"

    def run(self, *arguments: str | Path, **options) -> int:
        """Run dev.py in it, and tell the child process where it is."""
        os.environ.update(COMFYUI_PATH=str(self.path), COMFYUI_PYTHON=str(self.python))
        return call(self.python, ROOT / "dev.py", *arguments, **options)


def is_comfyui(folder: Path) -> bool:
    """Whether ComfyUI's source lies in a folder."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def comfyui_version(folder: Path) -> str:
    """The version that a ComfyUI folder states, read without importing it."""
    file = folder / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found.group(1) if found else "of unknown version"


def find_comfyui(environ: Mapping[str, str], pack: Path, home: Path) -> Path | None:
    """The ComfyUI named by COMFYUI_PATH, or around the pack, or in the home folder."""
    if not environ.get("COMFYUI_PATH"):
        return next(filter(is_comfyui, (pack.parent.parent, home / "ComfyUI")), None)
    named = Path(environ["COMFYUI_PATH"]).expanduser().absolute()
    if not is_comfyui(named):
        raise Problem(
            f"COMFYUI_PATH is {named}, but main.py and comfy/ are not there. Set it to the folder "
            "that holds ComfyUI's main.py."
        )
    return named


def find_interpreter(
    comfyui: Path, environ: Mapping[str, str], unfit: Callable[[Path], str]
) -> tuple[Path | None, str]:
    """An interpreter in which ComfyUI's packages import, or None and what each one lacked."""
    if name := environ.get("COMFYUI_PYTHON"):
        named = Path(shutil.which(name) or name).expanduser().absolute()
        if reason := unfit(named):
            raise Problem(f"COMFYUI_PYTHON is {named}, but it cannot run ComfyUI: {reason}")
        return named, ""
    usual = [python_of(comfyui / ".venv"), python_of(comfyui / "venv")]
    usual.append(comfyui.parent / "python_embeded" / "python.exe")  # Windows portable, its spelling
    reasons = []
    for python in [*(path for path in usual if path.is_file()), Path(sys.executable)]:
        if not (reason := unfit(python)):
            return python, ""
        reasons.append(f"{python}: {reason}")
    return None, "; ".join(reasons)


def locate_comfyui() -> ComfyUI | str:
    """A ComfyUI that can be run, or why there is none; settings that do not work are an error."""
    path = find_comfyui(os.environ, ROOT, Path.home())
    if path is None:
        if os.environ.get("COMFYUI_PYTHON"):
            raise Problem("COMFYUI_PYTHON is set but no ComfyUI was found: set COMFYUI_PATH too.")
        return "no ComfyUI was found around this pack or in ~/ComfyUI"

    def unfit(python: Path) -> str:
        works, answer = ask(python, COMFYUI_NEEDS, path)
        return "" if works else answer

    python, lacking = find_interpreter(path, os.environ, unfit)
    if python is not None:
        return ComfyUI(path, python)
    reason = f"no Python with ComfyUI's packages was found for {path} ({lacking})"
    if os.environ.get("COMFYUI_PATH"):
        raise Problem(f"{reason}. Set COMFYUI_PYTHON to the Python that runs ComfyUI.")
    return reason


# ---- tests ----------------------------------------------------------------------------------


def count_tests(folder: Path) -> int:
    """Test functions in a folder, read from the source; parametrised ones count once."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in folder.rglob("test_*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    return sum(node.name.startswith("test_") for node in nodes)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """pytest's arguments for the part without ComfyUI and the part with it; [] for no such part.

    Paths choose the parts, by whether they lie in tests/comfyui. Without any, both run whole.
    """
    tests, comfy = ROOT / "tests", ROOT / "tests" / "comfyui"
    if "--fast" in arguments:
        options = [argument for argument in arguments if argument != "--fast"]
        rooms = [str(ROOT / room) for room in FAST_ROOMS]
        slow = [f"--deselect={name}" for name in SLOW]
        graphs = [f"{comfy}/{name}" for name in GRAPHS]
        return [*options, *rooms, *PARALLEL, *slow], [*options, *graphs]
    options, plain, within = [], [], []
    for argument in arguments:
        file, *names = argument.split("::")
        path = Path(os.path.abspath(file))
        if not path.exists() or not path.is_relative_to(tests):
            options.append(argument)
        else:
            chosen = within if path.is_relative_to(comfy) else plain
            chosen.append("::".join([str(path), *names]))
    if not plain and not within:
        plain, within = [str(tests), f"--ignore={tests / 'browser'}"], [str(comfy)]
        if not arguments:
            plain, within = [*plain, *PARALLEL, *COVERAGE], [*within, *PARALLEL]
    part = [*options, *plain, f"--ignore={comfy}"] if plain else []
    return part, [*options, *within] if within else []


def borrowed_tools(python: Path) -> Path:
    """A folder with pytest for a Python that may lack it; what that Python has is left alone.

    It may have no pip either, so it runs the pip of our environment, into a folder of ours. Our
    own Python must not: hypothesis is compiled, for one Python version.
    """
    _, version = ask(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    folder = environment_folder() / "comfyui-test-tools" / version
    look = f"import sys; sys.path.append({str(folder)!r}); import "
    missing = [pack for name, pack in TEST_TOOLS.items() if not ask(python, look + name)[0]]
    if missing:
        say(f"{python} lacks {' and '.join(missing)}: installing into {folder}")
        _, ours = ask(python_of(environment_folder()), "import pip; print(pip.__path__[0])")
        pip(python, ours, "install", "--upgrade", "--target", folder, *missing)
    return folder


def test(arguments: Sequence[str]) -> int:
    """Run the tests, those in tests/comfyui with ComfyUI's Python; 0 only if all parts passed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait for each other
    comfyui, python, codes, report = locate_comfyui(), ensure_environment(), [], []
    plain, within = split_arguments(arguments)
    if plain:
        say(f"tests without ComfyUI, with {python}")
        codes.append(call(python, ROOT / "dev.py", "_pytest", "", *plain, cwd=ROOT))
        report.append(f"without ComfyUI: {verdict(codes[-1])}, with {python}")
    if within and isinstance(comfyui, ComfyUI):
        say(f"tests inside {comfyui}")
        codes.append(comfyui.run("_pytest", borrowed_tools(comfyui.python), *within, cwd=ROOT))
        report.append(f"inside ComfyUI: {verdict(codes[-1])}, {comfyui}")
    elif within:
        report.append(
            f"inside ComfyUI: at least {count_tests(ROOT / 'tests' / 'comfyui')} tests not run, "
            f"because {comfyui}; to run them set COMFYUI_PATH to ComfyUI's folder, and "
            "COMFYUI_PYTHON to its Python where needed"
        )
    for line in report:
        say(line)
    return max(codes, key=abs, default=1)


def verdict(code: int) -> str:
    """pytest's exit code in words."""
    words = {0: "passed", 1: "FAILED", 5: "FAILED (pytest collected no tests)"}
    return words.get(code, f"FAILED (pytest exit code {code})")


# ---- commands -------------------------------------------------------------------------------


def leave_pack_folder() -> None:
    """Take the pack's folder off sys.path: its nodes/ would hide ComfyUI's nodes.py."""
    here = ROOT.resolve()
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]


def load_pack() -> None:
    """Import the pack's folder as a package under a name of our own."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def in_environment(module: str, *arguments: str) -> int:
    """Run a module of the pack in our environment."""
    return call(ensure_environment(), ROOT / "dev.py", "_module", module, *arguments)


def in_comfyui(why: str, module: str, *arguments: str) -> int:
    """Run a module of the pack in ComfyUI's Python, or say why that has to be."""
    comfyui = locate_comfyui()
    if isinstance(comfyui, str):
        raise Problem(f"{why}, and {comfyui}: set COMFYUI_PATH.")
    return comfyui.run("_module", module, *arguments)


def module_main(arguments: Sequence[str]) -> int:
    """Inside the chosen interpreter: call main() of a module of the pack."""
    module, *rest = arguments
    leave_pack_folder()
    load_pack()
    whole = (ROOT / "tests" / "comfyui" / "launch.py").is_file()
    if whole and importlib.util.find_spec("torchvision"):  # transformers imports it; it may fail
        importlib.import_module(f"{PACK}.tests.comfyui.launch").ensure_torchvision()
    sys.argv = ["dev.py", *rest]
    return importlib.import_module(f"{PACK}.{module}").main(rest) or 0


def pytest_main(arguments: Sequence[str]) -> int:
    """Inside the chosen interpreter: call pytest, borrowed from a folder where it has none."""
    tools, *rest = arguments
    leave_pack_folder()
    sys.path += filter(None, [tools])  # not PYTHONPATH: Windows portable's Python does not read it
    import pytest

    return int(pytest.main(rest))


def demo(arguments: Sequence[str]) -> int:
    """Plain sampling beside LAGS on the bundled model; in ComfyUI where COMFYUI_PATH names one."""
    if not os.environ.get("COMFYUI_PATH"):
        return in_environment("benchmarks.demo", *arguments)
    comfyui = locate_comfyui()
    say(f"running the bundled workflow in {comfyui}")
    return comfyui.run("_module", "demo.comfy", *arguments)


def bench(arguments: Sequence[str]) -> int:
    """Run one benchmark."""
    files = (ROOT / "benchmarks").glob("*.py")
    names = sorted(file.stem for file in files if not file.name.startswith("_"))
    name = arguments[0] if arguments else ""
    if name not in names:
        wrong = f"There is no benchmark {name!r}." if name else "Which benchmark?"
        raise Problem(f"{wrong} There are: {', '.join(names) or 'none yet'}.", 2)
    module, rest = f"benchmarks.{name}", arguments[1:]
    if name in COMFYUI_BENCHMARKS:
        return in_comfyui("This benchmark needs ComfyUI's code", module, *rest)
    return in_environment(module, *rest)


def train(arguments: Sequence[str]) -> int:
    """Train the demo model."""
    return in_environment("demo.train", *arguments)


def lint(arguments: Sequence[str]) -> int:
    """Check style, format and types."""
    python = ensure_environment()
    checks = (["ruff", "check", *arguments], ["ruff", "format", "--check", *arguments], ["mypy"])
    return max([call(python, "-m", *check, cwd=ROOT) for check in checks], key=abs)


def sync(arguments: Sequence[str]) -> int:
    """Write all files that follow from the nodes."""
    return in_comfyui("The nodes are known inside ComfyUI only", "tests.derived.sync", *arguments)


def workflows(arguments: Sequence[str]) -> int:
    """Check the workflows; needs no packages."""
    return module_main(["demo.check_workflows", *arguments])


def matrix(arguments: Sequence[str]) -> int:
    """Run the tests of what hangs on versions, on several ComfyUIs and transformers."""
    spec = importlib.util.spec_from_file_location("matrix", ROOT / "tests" / "matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments, sys.modules[__name__])


COMMANDS = {
    command.__name__: command
    for command in (demo, test, bench, train, lint, sync, workflows, matrix)
}
INSIDE = {"_module": module_main, "_pytest": pytest_main}  # only dev.py itself runs these


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names."""
    if sys.version_info < (3, 10):  # noqa: UP036
        raise Problem(f"dev.py needs Python 3.10 or later; this is {sys.version.split()[0]}.")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    command = {**COMMANDS, **INSIDE}.get(arguments[0])
    if command is None:
        raise Problem(f"There is no command {arguments[0]!r}. There are: {', '.join(COMMANDS)}.", 2)
    os.environ.setdefault("PYTHONUTF8", "1")  # for child processes that print Greek on Windows
    return command(arguments[1:])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        print(f"[dev.py] {problem}", file=sys.stderr)
        sys.exit(problem.code)
    except KeyboardInterrupt:
        sys.exit(130)
