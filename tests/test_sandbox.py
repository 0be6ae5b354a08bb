"""A confined process changes nothing of the files and the processes of its user, with Landlock or without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kata.sandbox import pyseccomp

pytestmark = pytest.mark.skipif(pyseccomp is None, reason="there is no seccomp here")

PROBE = """
import ctypes, fcntl, os, sys
from kata.sandbox import drop_capabilities, filter_calls

libc = ctypes.CDLL(None, use_errno=True)
drop_capabilities(libc)  # of parent and child: one without any may do as much to the other as one of an ordinary user
if os.fork():
    os.wait()
    sys.exit()
filter_calls()
file, judge, (ours, _) = sys.argv[1], os.getppid(), os.pipe()


def tkill(pid, number):
    if libc.syscall(TKILL, pid, number):
        raise OSError(ctypes.get_errno(), "tkill")


TKILL = {"x86_64": 200, "aarch64": 130}.get(os.uname().machine)
ACTIONS = {
    "chmod": lambda: os.chmod(file, 0o777),
    "fchmod": lambda: os.fchmod(os.open(file, os.O_RDONLY), 0o777),
    "chown": lambda: os.chown(file, -1, -1),
    "utime": lambda: os.utime(file, (1, 1)),
    "attribute": lambda: os.setxattr(file, "user.kata", b"1"),
    "truncate": lambda: os.truncate(file, 0),
    "open and truncate": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
    "kill": lambda: os.kill(judge, 0),
    "tkill": lambda: tkill(judge, 0),
    "a signal when data comes": lambda: fcntl.fcntl(ours, fcntl.F_SETOWN, judge),
    "another signal": lambda: fcntl.fcntl(ours, fcntl.F_SETSIG, 9),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, judge, os.getpriority(os.PRIO_PROCESS, judge)),
    "affinity": lambda: os.sched_setaffinity(judge, os.sched_getaffinity(judge)),
    "scheduler": lambda: os.sched_setscheduler(judge, os.SCHED_OTHER, os.sched_param(0)),
}
for name, action in ACTIONS.items():
    try:
        action()
        print(name, "done", flush=True)
    except OSError:
        print(name, "refused", flush=True)
os.write(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), b"new")  # as a checkpoint is written
"""


def test_files_and_processes_of_the_same_user_stay_as_they_are(tmp_path: Path) -> None:
    file, written = tmp_path / "file", tmp_path / "written"
    file.write_text("as it was")
    file.chmod(0o640)
    before = file.stat()
    done = subprocess.run([sys.executable, "-c", PROBE, str(file), str(written)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if not line.endswith("refused")] == ["chmod done", "fchmod done", "utime done"]
    after = file.stat()
    assert (after.st_mode, after.st_mtime_ns, file.read_text()) == (before.st_mode, before.st_mtime_ns, "as it was")
    assert written.read_text() == "new"
