"""What ``pip install`` of this project brings, seen from a directory where there is no checkout.

A source distribution is made from the checkout, a wheel from that, and the wheel is installed into an empty
environment that borrows only the third-party packages of this one. So a file that MANIFEST.in forgets is missed
here, and nothing of the checkout can stand in for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", ".tox", "build", "dist", "*.egg-info", "*.so", "*.c", "__pycache__", ".*_cache", ".hypothesis"
)


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run, and fail with the output if it fails; the environment does not point back at the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    environment |= variables
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made in a copy so that this checkout's build directory stays as it is."""
    work = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, work / "checkout", ignore=LEFT_BEHIND)
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", work / "dist"]
    run(*command, cwd=work / "checkout", AIPHONE_WITHOUT_EXTENSIONS="1")  # C files are no part of it
    (archive,) = (work / "dist").glob("aiphone-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel from the unpacked source distribution.

    The checkout's objects are laid beside it: what is newer than them is compiled, what is not is not compiled a
    second time.
    """
    work = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        # The filter is not in every 3.11; an archive that was made a moment ago needs none.
        archive.extractall(work, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = work / sdist.name.removesuffix(".tar.gz")
    if (ROOT / "build").is_dir():
        shutil.copytree(ROOT / "build", unpacked / "build", ignore=shutil.ignore_patterns("bdist*"))
        for translated in (ROOT / "ext").rglob("*.c"):
            shutil.copy2(translated, unpacked / translated.relative_to(ROOT))
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", work]
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *flags, unpacked, cwd=work)
    (built,) = work.glob("aiphone-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment that has the wheel and, by a path file, this environment's other packages."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    flags = ["--no-deps", "--no-index", "--quiet"]
    run(python, "-m", "pip", "install", *flags, wheel, cwd=environment)
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment).strip())
    (purelib / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return environment / "bin"


def test_sdist_has_all_that_building_and_testing_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {"LICENSE", "Makefile", "tox.ini", "pyproject.toml", "setup.py", "tests/conftest.py", "web/index.html"}
    wanted |= {"tools/build_pjsua2.py", "tools/pjsua2_config_site.h", "aiphone/models/catalogue.toml"}
    wanted |= {
        str(path.relative_to(ROOT)) for path in (ROOT / "ext").rglob("*") if path.suffix in {".pyx", ".pxd", ".h"}
    }
    assert wanted <= names, f"missing from the source distribution: {sorted(wanted - names)}"
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_wheel_has_extensions_stubs_catalogue_and_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    ext = ROOT / "ext"
    wanted = {str(path.relative_to(ext).with_suffix("")) + suffix for path in ext.rglob("*.pyx")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "aiphone").rglob("*.pyi")}
    wanted |= {"aiphone/py.typed", "aiphone/models/catalogue.toml"}
    wanted |= {"aiphone/" + str(path.relative_to(ROOT)) for path in (ROOT / "web").rglob("*") if path.is_file()}
    assert wanted <= names, f"missing from the wheel: {sorted(wanted - names)}"
    strangers = {name.split("/")[0] for name in names} - {"aiphone"}
    assert all(name.endswith(".dist-info") for name in strangers), strangers


def test_console_command_answers(installed: Path, tmp_path: Path) -> None:
    from aiphone import __version__

    assert __version__ in run(installed / "whisper-talk-llama", "--version", cwd=tmp_path)
    text = run(installed / "whisper-talk-llama", "-h", cwd=tmp_path)
    assert "-mw" in text
    assert "-hp" in text


def test_extensions_and_page_are_the_installed_ones(installed: Path, tmp_path: Path) -> None:
    modules = [".".join(p.relative_to(ROOT / "ext").with_suffix("").parts) for p in (ROOT / "ext").rglob("*.pyx")]
    program = (
        "import importlib, sys\n"
        "from aiphone.server.assets import web_root\n"
        "for name in sys.argv[1:]: print(importlib.import_module(name).__file__)\n"
        "print(web_root() / 'index.html')\n"
    )
    files = run(installed / "python", "-c", program, *modules, cwd=tmp_path).split()
    assert len(files) == len(modules) + 1
    for file in files:
        assert Path(file).is_relative_to(installed.parent), f"{file} is not in the environment"
        assert Path(file).is_file()
