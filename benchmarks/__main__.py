"""List the benchmarks, or run them one after the other: `python -m benchmarks [all | NAME ...]`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Name and first sentence of every module that can be run."""
    found = {}
    for path in sorted(FOLDER.glob("[a-z]*.py")):
        source = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return found


def main(arguments: Sequence[str]) -> int:
    """0 when everything that was run met its targets."""
    found = benchmarks()
    if not arguments:
        width = max(map(len, found))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in found.items()))
        print("\npython -m benchmarks all | NAME ...    one after the other")
        print("python -m benchmarks.NAME -h            what one of them takes")
        return 0
    names = list(found) if list(arguments) == ["all"] else list(arguments)
    unknown = [name for name in names if name not in found]
    if unknown:
        print(f"there is no benchmark {unknown[0]}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    missed = []
    for name in names:
        print(f"== {name}: {found[name]}", flush=True)
        # A process for each: what one has loaded must not weigh on the next.
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent, check=False).returncode:
            missed.append(name)
        print(flush=True)
    print(f"short of a target: {', '.join(missed)}" if missed else "every target is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
