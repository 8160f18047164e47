"""Run train_ddp.py without the patch, which fails, and with it; then run try_rates.py.

In a clone, in a fresh environment (or "make demo", which makes one):

    pip install ".[demo]" && python examples/demo.py
"""

import os
import re
import subprocess
import sys
from pathlib import Path

script = [sys.executable, str(Path(__file__).with_name("train_ddp.py"))]

print("1. The script of the report, without the patch (WANDB_DDP_PATCH=0):", flush=True)
# One worker: two would write their tracebacks into each other's lines.
without = subprocess.run(
    [*script, "--workers", "1"],
    env={**os.environ, "WANDB_DDP_PATCH": "0", "WANDB_SILENT": "true", "WANDB_MODE": "offline"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
)
# The worker's error comes first, then torch's report that the worker has ended.
error = re.search(r"^[\w.]+(Error|Exception)\b.*", without.stdout, re.M)
print(f"   {error[0]}" if error else "   no error: this wandb does not need the patch")
print(f"   exit status {without.returncode}", flush=True)

print("2. The same script, with the patch:", flush=True)
patched = {**os.environ, "WANDB_DDP_PATCH": "1"}
if subprocess.run(script, env=patched).returncode:
    sys.exit(1)

print("3. Three trainings in a row, with spawn():", flush=True)
rates = [sys.executable, str(Path(__file__).with_name("try_rates.py"))]
sys.exit(subprocess.run(rates, env={**patched, "WANDB_SILENT": "true"}).returncode)
