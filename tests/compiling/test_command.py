"""tools/compile_for_topology.py as it is typed."""

import json
import os
import subprocess
import sys
from pathlib import Path


def command(*flags):
    root = Path(__file__).parents[2]
    return subprocess.run(
        [
            sys.executable,
            "tools/compile_for_topology.py",
            "--config=configs/tiny/ldm.py",
            *flags,
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command_compiles_and_writes_json():
    done = command("--topology=cpu:2", "--program=sample", "--json=-")
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert (numbers["program"], numbers["num_devices"]) == ("sample", 2)
    assert numbers["fits"] and numbers["flops"] > 0


def test_the_command_ends_in_one_sentence_for_a_topology_that_is_none():
    done = command("--topology=v5e")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no topology 'v5e'")
    assert len(done.stderr.splitlines()) == 1
