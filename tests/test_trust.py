"""What no published file may do, read from its source: the registry's rules, and our own promises.

tests/comfyui/test_trust.py watches the same at run time.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from lags_pack.tests import published
from lags_pack.tests.published import ROOT, source, tree

FILES = published.files()
PYTHON = [name for name in FILES if name.endswith(".py")]
SCRIPTS = [name for name in FILES if name.endswith(".js")]
WORKFLOWS = [name for name in FILES if name.startswith("workflows/") and name.endswith(".json")]

RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
# By the longest name that is named: "http" stands for http.client, too; aiohttp.web may be there.
FORBIDDEN = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    *("subprocess", "multiprocessing", "pty", "ctypes", "cffi", "webbrowser", "pip", "ensurepip"),
    *("socket", "ssl", "http", "urllib", "requests", "httpx", "urllib3", "websockets", "ftplib"),
    *("smtplib", "telnetlib", "xmlrpc", "aiohttp.client", "aiohttp.ClientSession"),
    *("huggingface_hub", "torch.hub", "torch.package", "torch.utils.model_zoo"),
    *("importlib", "runpy", "code", "codeop", "imp", "base64", "zlib", "codecs"),
}
# Calls of a module's function that reach a shell, another process, the network, or the state that
# all of ComfyUI shares. A name ending in "." stands for all that it begins.
SHARED = {
    *("os.system", "os.popen", "os.exec", "os.spawn", "os.fork", "os.startfile", "os.posix_spawn"),
    *("os.putenv", "os.unsetenv", "os.chdir", "os.umask", "os.environ.", "sys.path."),
    *("sys.modules.pop", "sys.modules.update", "sys.setrecursionlimit", "sys.settrace"),
    *("sys.meta_path.", "signal.signal", "locale.setlocale", "torch.hub.", "torch.jit.load"),
    *("torch.package.", "torch.set_", "torch.use_deterministic", "torch.manual_seed", "torch.seed"),
    *("torch.cuda.set_", "torch.cuda.manual_seed", "torch.random.set_", "torch.random.manual_seed"),
    *("torch.backends.", "numpy.random.seed", "random.seed", "warnings.filterwarnings"),
    *("warnings.simplefilter", "logging.basicConfig", "logging.disable"),
    *("logging.setLoggerClass", "atexit.register", "gc.disable"),
}
UNDONE = {"catch_warnings", "fork_rng"}  # a `with` that puts back what is changed inside
# ComfyUI's own switches of its compiler and of kernels without a derivative, set while a gradient
# passes and then as they were: a test of tests/comfyui/test_backward.py holds them to that.
PUT_BACK = {
    "runtime/autograd_safe.py": {
        "setattr on comfy.cli_args.args",
        "setattr on comfy.model_management",
    }
}
REGISTRY = "S102,S307"  # what the registry's action looks for


def dotted(node: ast.AST) -> str:
    """os.environ.get for that expression; "" for what does not begin with a name."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.Module) -> dict[str, str]:
    """Names that the file has from outside of the pack, and what they are: mm, comfy.model_..."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def import_faults(tree: ast.Module) -> Iterator[str]:
    """Imports of what the pack has no business with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            parts = name.split(".")
            heads = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            yield from (f"imports {name}" for _ in heads & FORBIDDEN)


def call_faults(tree: ast.Module) -> Iterator[str]:
    """Calls that run text, unpickle, reach out, or change what is shared."""
    names, inside = imported(tree), undone(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = full_name(node.func, names)
        keywords = {word.arg: word.value for word in node.keywords}
        if called in RUNS_TEXT or called.startswith("builtins."):
            yield f"calls {called}"
        if any(called == name or is_below(called, name) for name in SHARED) and node not in inside:
            yield f"calls {called}"
        if called == "torch.load" and not is_constant(keywords.get("weights_only"), True):
            yield "calls torch.load without weights_only=True"
        if called in ("numpy.load", "torch.save"):
            yield f"calls {called}: safetensors instead"
        if "trust_remote_code" in keywords or is_constant(keywords.get("allow_pickle"), True):
            yield f"{called} is allowed to run code"
        if called.endswith(".from_pretrained") and not stays_at_home(node, keywords):
            yield f"{called} may look for files on the network"
        if called in ("setattr", "delattr") and dotted(node.args[0]).split(".")[0] in names:
            yield f"{called} on {full_name(node.args[0], names)}"


def is_below(called: str, name: str) -> bool:
    """os.environ.update for "os.environ."; torch.set_default_dtype for "torch.set_"."""
    return name.endswith((".", "_", "exec", "spawn", "deterministic")) and called.startswith(name)


def is_constant(node: ast.AST | None, value: Any) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def stays_at_home(node: ast.Call, keywords: dict[str | None, ast.expr]) -> bool:
    """A loader that is given the weights themselves, or told to read local files only."""
    given = node.args and is_constant(node.args[0], None) and "state_dict" in keywords
    return bool(given) or is_constant(keywords.get("local_files_only"), True)


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """comfy.model_management.x for mm.x, by the file's imports."""
    first, *rest = dotted(node).split(".")
    return ".".join([names.get(first, first), *rest])


def undone(tree: ast.Module) -> set[ast.AST]:
    """All that stands inside of a `with` that undoes it."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items]
            names = {dotted(c.func).split(".")[-1] for c in calls if isinstance(c, ast.Call)}
            if names & UNDONE:
                found |= set(ast.walk(node))
    return found


def assignment_faults(tree: ast.Module) -> Iterator[str]:
    """Assignments to, or deletions of, attributes and items of what was imported."""
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = list(node.targets)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        else:
            continue
        for target in [part for whole in targets for part in ast.walk(whole)]:
            root = target
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            changed = root is not target and isinstance(target.ctx, (ast.Store, ast.Del))
            if changed and isinstance(root, ast.Name) and root.id in names:
                yield f"line {node.lineno} changes {names[root.id]}"


def faults(tree: ast.Module) -> list[str]:
    """All that a published file may not do and does."""
    return [*import_faults(tree), *call_faults(tree), *assignment_faults(tree)]


@pytest.mark.parametrize("name", PYTHON)
def test_a_published_file_does_nothing_forbidden_and_can_be_read(name: str) -> None:
    """No obfuscation: plain text in lines of a usual length, no escapes that hide letters."""
    assert set(faults(tree(name))) == PUT_BACK.get(name, set())
    text = source(name)
    assert max(map(len, text.splitlines()), default=0) < 200
    assert not re.search(r"(\\x[0-9a-fA-F]{2}){8}|[A-Za-z0-9+/=]{90}", text)


def test_no_file_for_developers_runs_text_or_unpickles() -> None:
    unsafe = r"calls (eval|exec)|calls torch\.load|imports \w*(pickle|dill|joblib|marshal|shelve)"
    rooms = (*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "demo").rglob("*.py"))
    paths = [*ROOT.glob("*.py"), *rooms]
    others = {path.relative_to(ROOT).as_posix() for path in paths} - set(PYTHON)
    for name in others:
        assert not re.search(unsafe, "\n".join(faults(tree(name)))), name
    assert len(others) > 15, "and all kinds are looked at"
    assert len(SCRIPTS) > 5 and len(WORKFLOWS) > 5 and len(PYTHON) > 60


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_page_stays_on_the_page(name: str) -> None:
    """No code from text, and nothing from or to another host."""
    text = source(name)
    for forbidden in (r"\beval\s*\(", r"\bFunction\s*\(", r"document\.write", r"innerHTML\s*="):
        assert not re.search(forbidden, text), forbidden
    hosts = {"http://www.w3.org"}  # a name of SVG, nothing that is asked
    assert set(re.findall(r"(?:https?|wss?)://[^\s\"'`/)]+", text)) <= hosts
    sources = re.findall(r"""(?:from|import)\s*\(?\s*["'`]([^"'`]+)""", text)
    assert [source for source in sources if not source.startswith(".")] == []


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_names_safe_files_only(name: str) -> None:
    """No file in a format that can carry code, as a choice or as a download."""
    content = json.loads(source(name))
    nodes = [{**node, "inputs": None} for node in content["nodes"] if "Note" not in node["type"]]
    unsafe = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".onnx", ".zip")
    assert [text for text in strings(nodes) if text.lower().endswith(unsafe)] == []


# ---- ruff --------------------------------------------------------------------------------------


def ruff(*arguments: str) -> tuple[int, str]:
    """Run ruff's check on the pack."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_ruff_looks_for_insecure_code_in_all_that_is_published() -> None:
    """Our rules S, and the registry's, with every `noqa` taken back; then its own check."""
    lint = published.pyproject()["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in lint.get("ignore", ()) if rule.startswith("S")]
    for pattern, rules in lint.get("per-file-ignores", {}).items():
        assert pattern in ("dev.py", "tests/*") or not [r for r in rules if r.startswith("S")]
    every = "--ignore-noqa", "--select", "S,E702", *PYTHON
    for arguments in (every, ("--select", REGISTRY, ".")):
        code, said = ruff("--isolated", *arguments)
        assert code == 0, said


# ---- the rules see what they shall see ---------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import builtins\nbuiltins.eval(text)",
        "from builtins import eval as run\nrun(text)",
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "from torch import load\nload(path, weights_only=False)",
        "import numpy as np\nnp.load(path)",
        "read(path, allow_pickle=True)",
        "import subprocess",
        "from multiprocessing import Pool",
        "def f():\n    import urllib.request",
        "from aiohttp import ClientSession",
        "import aiohttp.client",
        "from huggingface_hub import hf_hub_download",
        "import importlib\nimportlib.import_module(name)",
        "import os\nos.system('ls')",
        "from os import popen\npopen('ls')",
        "import os\nos.execv(path, [])",
        "import os\nos.environ['A'] = 'b'",
        "import os\nos.environ.setdefault('A', 'b')",
        "import sys\nsys.path.insert(0, '.')",
        "import sys\nsys.path[:] = []",
        "import torch\ntorch.set_default_dtype(torch.float64)",
        "import torch\ntorch.manual_seed(0)",
        "import torch\ntorch.set_rng_state(state)",
        "import torch\ntorch.random.set_rng_state(state)",
        "import torch\ntorch.backends.cudnn.benchmark = True",
        "import torch\ntorch.Tensor.cuda = None",
        "import warnings\nwarnings.filterwarnings('ignore')",
        "import logging\nlogging.disable()",
        "import comfy.samplers\ncomfy.samplers.KSampler.SAMPLERS += ['x']",
        "import comfy.samplers\ncomfy.samplers.sampling_function = f",
        "import comfy.model_management as mm\nmm.OOM_EXCEPTION = None",
        "import comfy.sd\nsetattr(comfy.sd, 'VAE', mine)",
        "from comfy.sd import VAE\nVAE.decode = mine",
        "from comfy.sd import VAE\nsetattr(VAE, 'decode', mine)",
        "import folder_paths\nfolder_paths.folder_names_and_paths['x'] = ([], set())",
        "import nodes\ndel nodes.NODE_CLASS_MAPPINGS['KSampler']",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, local_files_only=True, trust_remote_code=True)",
    ],
)
def test_a_fault_is_seen(source: str) -> None:
    assert faults(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "import re\nre.compile('a')",
        "import torch\ntorch.load(p, weights_only=True)",
        "from aiohttp import web",
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')",
        "import torch\nx = torch.zeros(3)\nx[0] = 1\nx.requires_grad = True",
        "import torch\nwith torch.random.fork_rng([]):\n    torch.set_rng_state(state)",
        "import torch\ngenerator = torch.Generator().manual_seed(0)",
        "import os\nos.makedirs(os.path.join('a', 'b'), exist_ok=True)",
        "setattr(module, name, value)",
        "self.model = model",
        "CLIPTokenizer.from_pretrained(folder, local_files_only=True)",
        "kind.from_pretrained(None, config=config, state_dict=weights)",
    ],
)
def test_harmless_code_passes(source: str) -> None:
    assert faults(ast.parse(source)) == []
