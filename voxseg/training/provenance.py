"""Where and with what a run was made: for `environment.json` in its folder."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import voxseg
from voxseg.provenance import now, software

__all__ = ["environment", "git_revision", "machine"]

GIT_SECONDS = 20


def environment(device: torch.device) -> dict[str, Any]:
    """What somebody else needs to know to repeat a run, and nothing about who ran it.

    No environment variables, host or user names; the home folder is written as `~`.

    Args:
        device: that trains.

    Returns:
        A dictionary in plain types: start time (UTC), command, versions, machine, and the git revisions of voxseg and
        of the working folder where these are checkouts.
    """
    cuda = device.type == "cuda"
    return {
        "started": now(),
        "command": _command(),
        "versions": software(),
        "platform": platform.platform(),
        "machine": machine(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "git": {
            "voxseg": git_revision(Path(voxseg.__file__).parent, "__init__.py"),
            "working_folder": git_revision(Path.cwd()),
        },
    }


def machine(device: torch.device) -> str:
    """The processor that trains, by its model's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads" + (" (mps)" if device.type == "mps" else "")


def git_revision(folder: Path, tracked: str | None = None) -> dict[str, Any] | None:
    """The commit that a folder is at, and whether tracked files differ from it.

    Args:
        folder: anywhere in a checkout.
        tracked: a file in it that has to be under version control: an installed package may lie in a folder of
            somebody's checkout without being part of it.

    Returns:
        `{"revision": ..., "dirty": ...}`, or None where there is no checkout or no git.
    """
    if tracked is not None and _git(folder, "ls-files", "--error-unmatch", "--", tracked) is None:
        return None
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if revision is None else {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, without the line's end; None if it fails or is not there."""
    # GIT_DIR and the like would lead to another repository; no lock is worth waiting for.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    # core.fsmonitor would run a program that the folder's own configuration names.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _command() -> str:
    """The command line, with the home folder as `~`."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]).replace(str(Path.home()), "~")


def _processor() -> str:
    """The name of the processor's model."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
