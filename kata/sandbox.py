"""What keeps a runner from everything but its own computation.

Limits hold for the process that calls `confine` and for nothing else; there is
no way back. On Linux an ordinary user may ask the kernel for Landlock (files)
and seccomp (processes, sockets); elsewhere the limits on resources remain.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # Windows has none

try:
    import pyseccomp
except (ImportError, RuntimeError):  # not Linux, or no libseccomp
    pyseccomp = None

MEMORY = 2 << 30  # bytes of address space beyond what is in use at the start
CPU_SECONDS = 900
OPEN_FILES = 256
FILE_SIZE = 16 << 20  # bytes, where an answer may write files at all

# Landlock: system calls are numbered alike on all architectures.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
WRITE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13 | 1 << 14  # into files; remove, make and rename them and folders; truncate
FILE_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights on files there are
PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 38, 4, 36

FORBIDDEN_CALLS = (
    *("fork", "vfork", "execve", "execveat", "setsid", "setpgid"),
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kcmp"),
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns"),
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "init_module", "finit_module", "kexec_load"),
    *("keyctl", "add_key", "request_key", "mq_open", "shmget", "msgget", "semget"),
    # What Landlock leaves open: owners and attributes of any file; and lengths, before its third version.
    *("chown", "lchown", "fchown", "fchownat", "file_setattr", "truncate"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
    # How fast others run: what is done to the zygote, later answers would inherit.
    *("setpriority", "ioprio_set", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", "migrate_pages"),
)
WITHOUT_EFFECT = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat", "utimensat_time64")  # open, too
CLONE_THREAD = 0x10000
F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP = 8, 10, 15, 0x8901, 0x8902  # a signal, to anybody, when data comes


@dataclass(frozen=True)
class Protection:
    """One protection, and whether it is active."""

    name: str
    active: bool
    note: str


def readable_paths() -> list[str]:
    """Where Python and PyTorch live: all that a runner may read."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    paths |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/localtime"}
    paths |= {"/dev/null", "/dev/urandom", "/dev/zero", "/proc/cpuinfo", "/sys/devices/system/cpu"}
    paths |= {entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))}
    return sorted(path for path in paths if path and os.path.exists(path))


def confine(readable: Sequence[str], writable: str | None = None) -> list[Protection]:
    """Give up, for good, what an answer has no use for; says what could be given up.

    Args:
        writable: the one folder in which files may be written, if any.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = sys.prefix  # torch.nn.attention asks for a place when it is imported
    done = [limit_resources(FILE_SIZE if writable else 0)]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        done += [drop_capabilities(libc), restrict_files(libc, readable, writable), filter_calls()]
    return done


def limit_resources(file_size: int) -> Protection:
    if resource is None:
        return Protection("resource limits", False, "this system has none")
    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if sys.platform == "linux":  # elsewhere the address space says nothing, or cannot be limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    return Protection("resource limits", True, "memory, CPU time, file size, open files")


def drop_capabilities(libc: ctypes.CDLL) -> Protection:
    """Root without capabilities is an ordinary user."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    ok = libc.capset(header, data) == 0
    return Protection("no capabilities", ok, "root inside is an ordinary user")


def landlock_abi(libc: ctypes.CDLL) -> int:
    return int(libc.syscall(CREATE_RULESET, None, 0, 1))


def restrict_files(libc: ctypes.CDLL, readable: Sequence[str], writable: str | None) -> Protection:
    """Landlock: read Python's own files, write into the one folder, nothing else; no signals to others."""
    abi = landlock_abi(libc)
    if abi < 1:
        return Protection("Landlock", False, "the kernel does not offer it: files can be read")
    rights = (1 << FILE_RIGHTS_BY_ABI.get(abi, 16)) - 1
    attributes = [rights, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0]  # files, TCP, scopes
    ruleset = (ctypes.c_uint64 * 3)(*attributes)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    fd = libc.syscall(CREATE_RULESET, ruleset, size, 0)
    if fd < 0:
        return Protection("Landlock", False, os.strerror(ctypes.get_errno()))
    for path in readable:
        allow(libc, fd, path, READ_FILE | (READ_DIR | EXECUTE if os.path.isdir(path) else 0))
    if writable:
        allow(libc, fd, writable, rights & (READ_FILE | READ_DIR | WRITE))
    ok = libc.syscall(RESTRICT_SELF, fd, 0) == 0
    os.close(fd)
    return Protection("Landlock", ok, f"only Python's own files can be read (ABI {abi})")


def allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    class Beneath(ctypes.Structure):
        _pack_ = 1
        _layout_ = "ms"
        _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]

    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(Beneath(rights, parent)), 0)
    os.close(parent)


def filter_calls() -> Protection:
    """seccomp: no new processes, no sockets, no look into other processes."""
    if pyseccomp is None:
        return Protection("seccomp", False, "libseccomp is not installed: processes and sockets can be made")
    refuse = pyseccomp.ERRNO(1)  # EPERM
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in FORBIDDEN_CALLS:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # this architecture or this libseccomp does not know the call
            rules.add_rule(refuse, name)
    for name in WITHOUT_EFFECT:  # who writes files, and copies or replaces them, may ask for it
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            rules.add_rule(pyseccomp.ERRNO(0), name)
    for place, name in ((1, "open"), (2, "openat")):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # "open" is not on every architecture
            rules.add_rule(refuse, name, pyseccomp.Arg(place, pyseccomp.MASKED_EQ, os.O_TRUNC | os.O_ACCMODE, os.O_TRUNC | os.O_RDONLY))
    rules.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_THREAD, 0))
    rules.add_rule(refuse, "prlimit64", pyseccomp.Arg(0, pyseccomp.NE, 0))
    for name in ("clone3", "openat2"):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            rules.add_rule(pyseccomp.ERRNO(38), name)  # ENOSYS: libc falls back to clone, and to openat
    for name in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        rules.add_rule(refuse, name, pyseccomp.Arg(0, pyseccomp.NE, os.getpid()))
    for command in (F_SETOWN, F_SETSIG, F_SETOWN_EX):
        rules.add_rule(refuse, "fcntl", pyseccomp.Arg(1, pyseccomp.EQ, command))
    for command in (FIOSETOWN, SIOCSPGRP):
        rules.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, command))
    rules.load()
    return Protection("seccomp", True, "no new processes, no sockets, no look into other processes")


def hide_from_others() -> None:
    """Keep other processes of this user from reading this one's memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every process that descendants leave behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
