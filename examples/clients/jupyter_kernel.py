"""Install a kernel spec with which Jupyter runs kernels in gVisor.

    python jupyter_kernel.py gvisor

Run this script with the Python of a virtual environment that contains ipykernel and usernsctl.
Kernels use the host's network, because they listen on TCP ports of its loopback device. A kernel
sees the host's programs and its own virtual environment. Add `--bind` options for data.
"""

# mypy: ignore-errors

import json
import shutil
import sys
import tempfile
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

USERNSCTL = shutil.which("usernsctl", path=str(Path(sys.executable).parent))
SPEC = {
    "argv": [
        *(USERNSCTL, "run", "--network", "host", "--bind", "{connection_file}"),
        *("--bind", sys.prefix, "--"),
        *(sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
    ],
    "display_name": "Python in gVisor",
    "language": "python",
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "kernel.json").write_text(json.dumps(SPEC))
        print(KernelSpecManager().install_kernel_spec(directory, sys.argv[1], user=True))
