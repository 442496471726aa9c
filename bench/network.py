"""Benchmark of private networks. Prints a table of start times, and a table of throughput.

    python bench/network.py [ROUNDS]

Starts are compared with `--network none`, and with a shell script that does the same by unshare(1),
pasta(1) and runsc, and polls every 50 ms for the end of each step. Unlike `--network private`, the
script does not protect the host from the sandbox. Throughput is measured for one TCP connection in
the virtual network of tests/networks.py. It is compared with pasta without gVisor, and with
`--network host` in a namespace of pasta. If ROUNDS is 0, only throughput is measured.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import networks
from measuring import USERNSCTL, medians, native, print_header, print_row

import usernsctl as un
from usernsctl.gvisor import oci
from usernsctl.gvisor.runsc.find import find_runsc

ROUNDS = 40
THROUGHPUT_ROUNDS = 5
SECONDS = 2
PORT = 9100
PASTA = "pasta --quiet --config-net --no-map-gw -t none -u none -T none -U none"
OPTIONS = PASTA.split()[1:]

# The arguments of the script: the bundle ($1), the state directory ($2), and the path of runsc
# ($3).
SCRIPT = f"""
rm -f $2/pid $2/ready
unshare --user --map-root-user --net sh -c '
    echo $$ >$2/pid
    while [ ! -e $2/ready ]; do sleep 0.05; done
    exec $3 --rootless --network=host --overlay2=root:memory --ignore-cgroups --root=$2/state \
        run --bundle=$1 by-script
' sh "$@" &
while [ ! -s $2/pid ]; do sleep 0.05; done
{PASTA} $(cat $2/pid)
while ! nsenter -t $(cat $2/pid) --preserve-credentials -U -n ip route | grep -q default; do
    sleep 0.05
done
touch $2/ready
wait
"""

# A client that sends or receives for a number of seconds, and prints the throughput in bytes per
# second.
CLIENT = """
import socket, sys, time
direction, host, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
connection = socket.create_connection((host, port))
connection.sendall(direction.encode())
buffer, count = bytearray(1 << 20), 0
begin = time.monotonic()
while time.monotonic() < begin + seconds:
    count += connection.send(buffer) if direction == "o" else connection.recv_into(buffer)
print(count / (time.monotonic() - begin))
"""
SERVER = """
import contextlib, socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
buffer = bytearray(1 << 20)
while True:
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        if connection.recv(1) == b"o":
            while connection.recv_into(buffer):
                pass
        else:
            while True:
                connection.send(buffer)
"""


def bench_starts(scratch: Path, rounds: int) -> None:
    one = [un.Extent(0, 0, 1)]
    options = oci.BuildOptions(
        args=["true"], rootfs="/", uid_map=one, gid_map=one, env={"PATH": "/usr/bin"}
    )
    oci.create(scratch / "bundle", oci.build(options))
    words = [str(scratch / "bundle"), str(scratch), find_runsc(os.environ)]
    run = (USERNSCTL, "run")
    calls = {
        "--network host": native(*run, "--network", "host", "--", "true"),
        "--network private": native(*run, "--network", "private", "--", "true"),
        "--allow 0.0.0.0/0": native(*run, "--allow", "0.0.0.0/0", "--", "true"),
        "--allow example.com": native(*run, "--allow", "example.com", "--", "true"),
        "--publish 18099:80": native(*run, "--publish", "18099:80", "--", "true"),
    }
    none = native(*run, "--", "true")
    script = native("sh", "-c", SCRIPT, "sh", *words)
    [nothing, scripted, *ours] = medians(none, script, *calls.values(), rounds=rounds)
    print_header(f"median of {rounds} rounds: theirs / ours")
    for name, taken in zip(calls, ours, strict=True):
        print_row(f"usernsctl run / usernsctl run {name}", nothing, taken, "")
    private = ours[list(calls).index("--network private")]
    print_row("script with pasta and polling / --network private", scripted, private, "1.00")


def bench_throughput(scratch: Path) -> None:
    python = "/usr/bin/python3"
    pasta = shutil.which("pasta")
    assert pasta is not None, "install passt"
    with networks.world(scratch) as world:
        world.serve_outside(sys.executable, "-c", SERVER, networks.WEB, str(PORT))
        starts = {
            "pasta": [pasta, *OPTIONS, "--", python],
            "pasta and --network host": [
                *(pasta, *OPTIONS, "--", USERNSCTL, "run", "--network", "host", "--", python),
            ],
            "--network private": [USERNSCTL, "run", "--network", "private", "--", python],
        }
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(THROUGHPUT_ROUNDS):
            for direction in ("o", "i"):
                words = [direction, networks.WEB, str(PORT), str(SECONDS)]
                for name, start in starts.items():
                    done = world.run(*start, "-c", CLIENT, *words)
                    if done.returncode:
                        print(f"left out, a run of {name}: {done.stderr.splitlines()[-1]}")
                        continue
                    found.setdefault((name, direction), []).append(float(done.stdout) / 2**20)
    print(f"\n{'one TCP connection, MiB/s':<58}{'out':>10}{'in':>10}")
    for name in starts:
        out, into = (statistics.median(found[name, direction]) for direction in ("o", "i"))
        print(f"{name:<58}{out:>10.0f}{into:>10.0f}")


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as scratch:
        if rounds:
            bench_starts(Path(scratch), rounds)
        bench_throughput(Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
