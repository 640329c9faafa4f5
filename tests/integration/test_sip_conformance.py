"""The behaviours of ``docs/sip-conformance.md``, each a scenario that sipp runs against one and the same agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sipp
from captures import Capture
from sip_harness import Agent, close_all

from aiphone.native import g722

pytestmark = pytest.mark.integration

ALL = os.environ.get("AIPHONE_SIP_ALL") == "1"
SCRIPTS = sipp.scripts()


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    shared = Agent(
        settings={"max_calls": 20, "ring_seconds": 6.0, "direct_policy": {"transfers": True, "trust_identity": True}}
    )
    assert shared.started["event"] == "started", shared.started
    yield shared
    stopped = shared.stop()
    close_all()
    assert stopped is not None
    assert stopped["sockets"] == 0
    assert shared.stray == []
    assert not [line for line in shared.errors if "Traceback" in line], shared.errors


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            script, id=script.name, marks=pytest.mark.behaviour(script.head["title"], script.head["rfc"], script.name)
        )
        for script in SCRIPTS
        if ALL or "full" not in script.head
    ],
)
def test_behaviour(
    script: sipp.Script, agent: Agent, capture: Capture, needs: Callable[[str, str], str], tmp_path: Path
) -> None:
    program = needs("sip-tester", "sipp")
    if script.head.get("needs") == "g722" and not g722.available():
        pytest.skip("libspandsp is not installed (Debian: libspandsp2)")
    agent.seen.clear()
    sipp.run(script, agent, program, tmp_path, float(script.head.get("timeout", "5")))


@pytest.mark.behaviour("tshark finds nothing malformed in what we say in these scenarios", "RFC 3261, RFC 8866")
def test_tshark_finds_nothing_malformed_in_the_scenarios(agent: Agent, capture: Capture) -> None:
    capture.check(sip_ports=[agent.port], ours=[agent.port], least={"sip": 3 * len(SCRIPTS) // 4, "sdp": 10})
