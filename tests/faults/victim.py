"""A process that runs a study without Ray, in children that are killed: `python -m tests.faults.victim SET...`.

One request a line on stdin, {"root": ..., "kill_after_s": seconds or null}; one answer a line on stdout: how the child
ended, and where it took each group of trials up. All is imported and loaded once, so that a child begins at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from scaleexp import execute
from scaleexp.config import load_study
from scaleexp.execute import run_packed
from scaleexp.launch.runner import open_study, prepare
from scaleexp.storage import Store
from tests.without_ray import assigned


def child(prepared, root, note):
    """Run the study, noting where each group of trials is taken up."""
    train = execute.train_pack

    def noted(engine, lrs, logs, recipe, clock, start):
        with note.open("a") as file:
            file.write(json.dumps({"step": start.step, "keys": [log.key for log in logs]}) + "\n")
        train(engine, lrs, logs, recipe, clock, start)

    execute.train_pack = noted
    open_study(prepared, root)
    work = assigned(prepared, root)
    run_packed(work, prepared.plan.trials, threads=1)


def wait_for_first_commit(store, prepared, pid):
    """Until every trial has one, so that a kill lands after it; or the child has ended."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if all(store.names(f"trials/{t.key}/commits") for t in prepared.plan.trials):
            return
        time.sleep(0.002)


def main():
    prepared = prepare(load_study("quickstart", sys.argv[1:]))
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        note = Path(request["root"]).with_suffix(".note")
        note.write_text("")
        pid = os.fork()
        if pid == 0:
            try:
                child(prepared, request["root"], note)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        if request["kill_after_s"] is not None:
            wait_for_first_commit(Store(request["root"]), prepared, pid)
            time.sleep(request["kill_after_s"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        groups = [json.loads(text) for text in note.read_text().splitlines()]
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "groups": groups}), flush=True)


if __name__ == "__main__":
    main()
