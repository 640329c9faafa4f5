#!/bin/sh
# Prints a Python of at least 3.11: the one named, else the newest that is installed.
#   sh tools/find_python.sh [PYTHON]
# As root on Debian, where there is none at all, it installs one.

good() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

wanted=${1:-python3}
if good "$wanted"; then
    command -v "$wanted"
    exit 0
fi
if ! command -v python3 >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "python: installing python3 and python3-venv" >&2
    apt-get update -qq >&2 &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
fi
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if good "$candidate"; then
        echo "python: $wanted is not a Python 3.11 or later; using $(command -v "$candidate")" >&2
        command -v "$candidate"
        exit 0
    fi
done
echo "python: no Python 3.11 or later was found; install one, or name it: make run PYTHON=/path/to/python3" >&2
exit 1
