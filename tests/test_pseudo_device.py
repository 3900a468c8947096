"""A device that is not the CPU, in a process of its own: torch must learn of a device before its first step."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_instruments_and_training_on_another_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "on_pseudo_device.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
