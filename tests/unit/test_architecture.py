"""The shape of the code: which package may import which, how long a module may be, what no file may name."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each package, or single module at the top, with its level: it may import what is on a lower level, and itself.
LEVELS = {
    "native": 0, "errors": 0, "clock": 0, "mailbox": 0, "priority": 0, "cores": 0, "events": 0, "actions": 0,
    "spoken_word": 0,
    "persona": 0, "config": 0, "config_file": 0,
    "media": 1, "speech": 1, "inference": 1, "store": 1, "models": 1, "caller": 1,
    "conversation": 2,
    "sip": 3, "server": 3,
    "cli": 4,
    "__main__": 5,
}  # fmt: skip
FOUNDATION = 0
"""On this level single files build on each other; on all others, packages of one level stay apart."""

LONGEST = 700
SOURCES = ("aiphone/**/*.py", "ext/**/*.pyx", "ext/**/*.pxd", "web/**/*.js", "tools/**/*.py", "benchmarks/**/*.py")

# Put together here, so that this file does not name what it forbids.
FORBIDDEN = {
    "a package registry's host": "|".join(
        [r"pypi\.(?:org|python)", r"python" + r"hosted\.org", r"deb\.deb" + r"ian\.org", r"registry\.npm" + "js"]
    ),
    "a path of one machine": r"(?<![\w.-])/(?:work|root|home/[a-z]+)/|/tmp/" + r"s/",
}


def sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def layer(module: str) -> str | None:
    """``conversation`` for ``aiphone.conversation.machine``; None for what is not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "aiphone" and len(parts) > 1 else None


def python_imports(text: str, module: str) -> Iterator[str]:
    """Modules that a Python source imports, as absolute names."""
    package = module.rsplit(".", 1)[0].split(".")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, node.module] if node.module else base)
            # ``from aiphone import config`` names a module only in its list.
            yield from (f"{name}.{alias.name}" for alias in node.names) if name == "aiphone" else [name]


def cython_imports(text: str) -> Iterator[str]:
    """Modules that a Cython source imports or cimports."""
    for match in re.finditer(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", text, re.MULTILINE):
        yield match[1] or match[2]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "ext" else parts)


def imports_of(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    yield from python_imports(text, module_name(path)) if path.suffix == ".py" else cython_imports(text)


def wrong_way(importer: str, imported: str) -> str:
    """Why ``importer`` may not import ``imported``; empty when it may. Both are layers."""
    for name in (importer, imported):
        if name not in LEVELS:
            return f"{name} has no level in this test"
    if importer == imported or LEVELS[imported] < LEVELS[importer]:
        return ""
    if LEVELS[imported] == LEVELS[importer] == FOUNDATION:
        return "" if imported != "config" or importer == "config_file" else "config is not for the foundation"
    return f"{importer} (level {LEVELS[importer]}) imports {imported} (level {LEVELS[imported]})"


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources("aiphone/**/*.py", "ext/**/*.pyx", "ext/**/*.pxd"):
        importer = layer(module_name(path))
        if importer is None or importer == "__init__":
            continue
        for name in imports_of(path):
            imported = layer(name)
            if imported is not None and not imported.startswith("__") and (why := wrong_way(importer, imported)):
                wrong.append(f"{path.relative_to(ROOT)}: {why}")
    assert not wrong, "\n".join(wrong)


def test_only_the_entry_point_knows_the_server_and_sip() -> None:
    knowing = [
        path.relative_to(ROOT).parts[1]
        for path in sources("aiphone/**/*.py")
        if {"sip", "server"} & {layer(name) for name in imports_of(path)}
    ]
    assert set(knowing) <= {"sip", "server", "cli", "__main__.py"}


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("conversation", "speech", True),
        ("speech", "conversation", False),
        ("speech", "inference", False),
        ("sip", "server", False),
        ("cli", "sip", True),
        ("native", "events", True),
        ("events", "media", False),
        ("unheard_of", "events", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert (wrong_way(importer, imported) == "") is allowed


def test_imports_are_found_in_each_form() -> None:
    text = "import aiphone.sip.agent\nfrom aiphone import config\nfrom aiphone.media import ring\nfrom . import x\n"
    assert list(python_imports(text, "aiphone.speech.vad")) == [
        "aiphone.sip.agent",
        "aiphone.config",
        "aiphone.media",
        "aiphone.speech",
    ]
    assert list(cython_imports("cimport a.b as c\nfrom aiphone.native.ring cimport Ring\n")) == [
        "a.b",
        "aiphone.native.ring",
    ]


def test_no_module_is_too_long() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*SOURCES)}
    long = [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > LONGEST]
    assert not long, "which second idea has crept in?\n" + "\n".join(long)


def checked_in() -> list[Path]:
    """Every text file that belongs to the project; outside a git checkout, those of the source distribution."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    return sources(*SOURCES, "*.toml", "*.in", "*.md", "Makefile", "tests/**/*.py", "web/*")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in checked_in():
        data = path.read_bytes()
        if b"\0" in data[:4096]:
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, f"{what} is named:\n" + "\n".join(found)
