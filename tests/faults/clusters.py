"""A Ray cluster of several nodes on this machine, and what a study may leave behind on it.

The nodes belong to a process of their own, `python -m tests.faults.clusters CPUS...`, for Ray reads how to authenticate
once per process. It takes one request a line on stdin, [method, *arguments], and answers with one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SYSTEM = {  # a node that is gone without a word is known to be gone after seconds, not half a minute
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
_OURS = ("ImplicitFunc", "TrainWorker", "TrainController", "PlacementGroupCleaner", "SynchronizationActor")
"""Names of the processes that a study starts on a cluster."""


class Nodes:
    """A cluster, asked from another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address: str = self.ask("address")
        self.session: str = self.ask("session")

    def ask(self, *request: object) -> Any:
        """Have the cluster do something."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver that joins the cluster."""
        return os.environ | {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}

    def processes(self, name: str) -> list[int]:
        """Those whose command lines hold a name; an orphan, too, still writes to a log of its cluster."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    own = name.encode() in (entry / "cmdline").read_bytes()
                    if own and self.session in str((entry / "fd" / "1").readlink()):
                        found.append(int(entry.name))
        return found

    def left_behind(self, *, patience_s: float = 30.0) -> dict[str, object]:
        """What is held where nothing should run any more, after there was time to let go."""
        end = time.monotonic() + patience_s
        while True:
            held = self.ask("held")
            held["processes"] = {name: pids for name in _OURS if (pids := self.processes(name))}
            found = {what: amount for what, amount in held.items() if amount}
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.5)


@contextmanager
def nodes(*cpus: int) -> Iterator[Nodes]:
    """A head and other nodes, with so many CPUs each."""
    command = [sys.executable, "-m", "tests.faults.clusters", *map(str, cpus)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "token"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Nodes(process)
        finally:
            process.stdin.close()
            process.wait(300)


class _Cluster:
    """The cluster, in its own process."""

    def __init__(self, cpus: list[int]) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus[0], "include_dashboard": True, "_system_config": _SYSTEM}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = {}
        for number in cpus[1:]:
            self.add(number)

    def address(self) -> str:
        return self._cluster.address

    def dashboard(self) -> str:
        return f"http://{self._cluster.head_node.webui_url}"

    def session(self) -> str:
        return Path(self._cluster.head_node.get_session_dir_path()).name

    def add(self, cpus: int) -> int:
        """Number of the process that is the new node."""
        node = self._cluster.add_node(num_cpus=cpus)
        pid = node.all_processes["raylet"][0].process.pid
        self._nodes[pid] = node
        return pid

    def nodes(self) -> list[int]:
        """Numbers of the processes that are nodes, without the head."""
        return list(self._nodes)

    def remove(self, pid: int, told: bool) -> None:
        """Take a node away, after telling it or not."""
        self._cluster.remove_node(self._nodes.pop(pid), allow_graceful=told)

    def alive(self) -> int:
        """Number of nodes, the head among them, that the cluster believes to live."""
        import ray

        self._join()
        return sum(node["Alive"] for node in ray.nodes())

    def hold(self, amount: float, what: str = "CPU") -> None:
        """Take CPUs, or another resource, from everybody else."""
        from ray.util.placement_group import placement_group

        self._join()
        self._group = placement_group([{what: amount}])
        assert self._group.wait(30)

    def memory(self) -> float:
        """Bytes of memory that the cluster counts."""
        import ray

        self._join()
        return float(ray.cluster_resources()["memory"])

    def let_go_for(self, workers: int) -> None:
        """Give them back as soon as a group of so many workers waits for its place."""
        from ray.util.placement_group import placement_group_table, remove_placement_group

        def waits(group: dict[str, Any]) -> bool:
            return group["state"] == "PENDING" and len(group["bundles"]) == workers

        while not any(waits(group) for group in placement_group_table().values()):
            time.sleep(0.1)
        remove_placement_group(self._group)

    def _join(self) -> None:
        import ray

        if not ray.is_initialized():
            ray.init(self._cluster.address, log_to_driver=False, logging_level="ERROR")

    def held(self) -> dict[str, object]:
        """CPUs in use, and placement groups."""
        import ray
        from ray.util.placement_group import placement_group_table

        self._join()
        total, free = ray.cluster_resources(), ray.available_resources()
        groups = [g["state"] for g in placement_group_table().values() if g["state"] != "REMOVED"]
        return {"CPUs": total.get("CPU", 0) - free.get("CPU", 0), "placement groups": groups}

    def shutdown(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def _serve(cpus: list[int]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    cluster = _Cluster(cpus)
    try:
        for line in sys.stdin:
            method, *arguments = json.loads(line)
            print(json.dumps(getattr(cluster, method)(*arguments)), file=answers, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _serve([int(word) for word in sys.argv[1:]])
