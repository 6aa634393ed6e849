"""The folders are the architecture: who may import whom, and what importing may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"kernels": set(), "serve": {"kernels"}, "jobs": {"kernels", "serve"}, "cluster": set()}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                f"{node.module}.{alias.name}" if node.module == "deshi" else node.module for alias in node.names
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path):
    room = path.relative_to(ROOT).parts[0]
    rooms = {name.split(".")[1] for name in imported(ast.parse(path.read_text())) if name.startswith("deshi.")}
    assert rooms - {room} <= MAY_IMPORT[room], f"{room} imports {rooms - {room} - MAY_IMPORT[room]}"


def test_the_rule_can_fail():
    assert list(imported(ast.parse("from deshi.jobs.recipe import Recipe\nfrom deshi import serve"))) == [
        "deshi.jobs.recipe",
        "deshi.serve",
    ]


def test_no_room_is_a_regular_package():
    assert not [path for room in MAY_IMPORT for path in (ROOT / room).rglob("__init__.py")]


def test_serving_in_one_process_imports_no_torch_and_no_ray():
    code = (
        "import sys, deshi.serve.classifier, deshi.serve.ingress, deshi.serve.process\n"
        "print([m for m in ('torch', 'ray', 'transformers', 'scipy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"


def test_kernels_import_without_cuda():
    code = "import deshi.kernels.int8, sys; print('triton' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "False"


def test_kernels_import_and_their_references_run_without_triton():
    names = [f"deshi.{'.'.join(p.relative_to(ROOT).with_suffix('').parts)}" for p in (ROOT / "kernels").rglob("*.py")]
    code = f"""
import importlib, sys
sys.modules["triton"] = None
for name in {sorted(names)!r}:
    importlib.import_module(name)
import torch
from deshi.kernels.packing import fill_rows
from deshi.kernels.w8a16 import w8a16
weight = torch.arange(32, dtype=torch.int8).reshape(2, 16)
print(w8a16(torch.ones(1, 16), fill_rows(weight), torch.ones(1, 2), None, None).tolist())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr[-2000:]
    assert told.stdout.strip() == "[[120.0, 376.0]]"


def test_the_command_line_starts_fast_and_imports_lazily():
    code = "import sys, deshi.jobs.cli; print([m for m in ('torch', 'ray', 'pydantic', 'pyarrow') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.timeout(600)
def test_the_wheel_holds_every_module_and_data_file(tmp_path):
    """An editable install hides what the wheel loses: build it, install it elsewhere, import everything from there."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    copy = tmp_path / "source"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site"), str(copy)],
        check=True,
        timeout=300,
    )
    modules = [
        "deshi." + ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.stem != "__init__"
    ]
    code = (
        "import importlib, pathlib, sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        f"site = pathlib.Path({str(tmp_path / 'site')!r})\n"
        "import deshi\n"
        "deshi.__path__ = [str(site / 'deshi')]\n"
        f"for name in {modules!r}:\n"
        "    module = importlib.import_module(name)\n"
        "    assert str(site) in module.__file__, (name, module.__file__)\n"
        "page = [f'jobs/evidence/page/templates/{name}' for name in ('page.html', 'style.css', 'report.md')]\n"
        "data = (*page, 'cluster/runtime_env.yaml', 'kernels/tuned/default.json')\n"
        "print(all((site / 'deshi' / name).is_file() for name in data))"
    )
    told = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr[-2000:]
    assert told.stdout.strip() == "True"
