"""Stands in for Slurm's commands, on one machine and without a queue.

The folder in STAND_IN keeps a file per task of an array, with its state and the process group it runs in, the
scripts that were submitted, and the jobs that were canceled.
"""

import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

FOLDER = Path(os.environ.get("STAND_IN", "."))


def install(folder: Path) -> Path:
    """Write the commands to a folder and return it."""
    for name in ("sbatch", "srun", "sacct", "scancel"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        path.chmod(0o755)
    return folder


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    number = str(len(list(FOLDER.glob("*.script"))) + 100)
    (FOLDER / f"{number}.script").write_text(text)
    array = re.search(r"--array='?0-(\d+)", text)
    tasks = [f"{number}_{index}" for index in range(int(array[1]) + 1)] if array else [number]
    for task in tasks:
        write(task, "PENDING", 0)
        own = [sys.executable, __file__, "run", task, str(FOLDER / f"{number}.script")]
        subprocess.Popen(own, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"Submitted batch job {number}")


def run(task: str, script: str) -> None:
    write(task, "RUNNING", os.getpid())
    number, _, index = task.partition("_")
    array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
    code = subprocess.call(["bash", script], env={**os.environ, "SLURM_JOB_ID": number, **array})
    write(task, "FAILED" if code else "COMPLETED", 0)


def srun(*words: str) -> None:
    given = dict(pairwise(words))
    names = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID"}

    def open_log(path: str) -> int:
        for sign, name in names.items():
            path = path.replace(sign, os.environ.get(name, ""))
        return os.open(path.replace("%t", "0"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    os.dup2(open_log(given["--output"]), 1)
    os.dup2(open_log(given["--error"]), 2)
    command = words[words.index("--error") + 2 :]
    os.execvp(command[0], command)


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for path in FOLDER.glob("*.task"):
        print(f"{path.stem}|{path.read_text().split()[0]}|here")


def scancel(*jobs: str) -> None:
    with (FOLDER / "canceled").open("a") as file:
        file.writelines(f"{job}\n" for job in jobs)
    for job in jobs:
        state, _, group = (FOLDER / f"{job}.task").read_text().partition(" ")
        if state == "RUNNING":
            os.killpg(int(group), signal.SIGKILL)
        if state in ("RUNNING", "PENDING"):
            write(job, "CANCELLED", 0)


def write(task: str, state: str, group: int) -> None:
    aside = FOLDER / f"{task}.{os.getpid()}"
    aside.write_text(f"{state} {group}")
    aside.rename(FOLDER / f"{task}.task")


if __name__ == "__main__":
    {"sbatch": sbatch, "run": run, "srun": srun, "sacct": sacct, "scancel": scancel}[sys.argv[1]](
        *sys.argv[2:]
    )
