"""`scaleexp submit`: what a study is as a job, and what becomes of it, with an imitation of the cluster."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from scaleexp.cli import cli
from scaleexp.config import load_study
from scaleexp.errors import ClusterLostError, ConfigError, InfeasibleError, InterruptedStudyError
from scaleexp.job_request import LEFT_OUT, checked_storage, environment, id_of, job_request
from scaleexp.launch import dashboard
from scaleexp.launch import jobs as ray_jobs
from tests.test_cli import STUDY

ADDRESS = ("--address", "http://127.0.0.1:8265")
SCHEMA = json.loads((files("scaleexp") / "schemas" / "submit.json").read_text())


@dataclass
class Job:
    submission_id: str | None
    status: str = "RUNNING"
    entrypoint: str = "scaleexp run quadratic"
    message: str | None = None
    driver_exit_code: int | None = None


@dataclass
class FakeJobs:
    """A cluster's job interface, whose next job ends as it is told to."""

    ends: tuple[str, int | None] = ("SUCCEEDED", 0)
    jobs: list[Job] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    log: tuple[str, ...] = ("12/12 trials done\n",)
    breaks: BaseException | None = None
    looks: int = 1
    not_ready: int = 0

    def submit_job(self, **asked: Any) -> str:
        if self.not_ready:
            self.not_ready -= 1
            raise RuntimeError("Request failed with status code 500: No available agent to submit job, please try")
        if any(job.submission_id == asked["submission_id"] for job in self.jobs):
            raise RuntimeError("Request failed with status code 500: the id is taken\nTraceback")
        self.asked.append(asked)
        self.jobs.append(Job(asked["submission_id"], "PENDING", asked["entrypoint"]))
        return asked["submission_id"]

    def list_jobs(self) -> list[Job]:
        return [Job(None, "SUCCEEDED"), *self.jobs]  # a driver that nobody submitted has no submission id

    def get_job_info(self, job_id: str) -> Job:
        (job,) = [job for job in self.jobs if job.submission_id == job_id]
        self.looks -= 1
        if self.looks <= 0 and job.status not in ray_jobs.ENDED:
            job.status, job.driver_exit_code = self.ends
        return job

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for lines in self.log:
            yield lines
        if self.breaks:
            raise self.breaks

    def stop_job(self, job_id: str) -> bool:
        self.ends = ("STOPPED", None)
        return True


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two nodes that the command reaches at whatever address."""
    fake = FakeJobs()
    found = dashboard.Cluster(jobs=fake, several_nodes=True)
    monkeypatch.setattr(dashboard, "connect", lambda address: found)
    return fake


def submit(*arguments: str, storage: str = "/shared/mine"):
    return CliRunner().invoke(cli, ["submit", "quadratic", *ADDRESS, "--storage", storage, *arguments])


def request(**options: Any):
    return job_request("quadratic", load_study("quadratic"), storage="/shared/mine", **options)


def test_the_id_is_that_of_the_content_and_not_of_the_file(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(STUDY)
    a, b = (load_study(str(tmp_path / name)) for name in ("a.yaml", "b.yaml"))
    assert id_of(a, "s3://b/x") == id_of(b, "s3://b/x")
    others = {id_of(a, "s3://b/y"), id_of(load_study(str(tmp_path / "a.yaml"), ["base.lr=0.2"]), "s3://b/x")}
    assert len(others | {id_of(a, "s3://b/x")}) == 3
    assert id_of(a, "s3://b/x").startswith("mine-")


def test_the_command_of_the_job_is_the_run_of_the_same_study(cluster):
    done = submit("--set", "seeds=[0, 1]", "--set", "question=Two words?")
    assert done.exit_code == 0, done.output
    (asked,) = cluster.asked
    words = shlex.split(asked["entrypoint"])
    assert words == [
        *["scaleexp", "run", "quadratic", "--yes", "--storage", "/shared/mine"],
        *["--set", "seeds=[0, 1]", "--set", "question=Two words?"],
    ]
    cli.commands["run"].make_context("run", words[2:])
    assert asked["entrypoint_num_cpus"] == 0
    assert "working_dir" not in asked["runtime_env"], "a built-in study needs no file"


def test_a_cluster_that_has_just_begun_is_waited_for(cluster, caplog):
    cluster.not_ready = 2
    done = submit()
    assert done.exit_code == 0, done.output
    assert len(cluster.jobs) == 1
    assert "the cluster takes no job yet: it has no agent for jobs; try 2" in caplog.text


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6, 130])
def test_the_command_ends_with_the_code_of_the_study(cluster, code):
    cluster.ends = ("FAILED", code) if code else ("SUCCEEDED", 0)
    done = submit("--json")
    assert done.exit_code == code
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document["exit_code"] == code
    assert "12/12 trials done" in done.stderr


@pytest.mark.parametrize(("ends", "code"), [(("STOPPED", None), 130), (("FAILED", None), 1), (("FAILED", -9), 137)])
def test_a_job_without_a_code_of_its_own_never_passes_for_done(cluster, ends, code):
    cluster.ends = ends
    assert submit().exit_code == code


def test_what_runs_is_followed_and_what_has_ended_goes_on_under_the_next_number(cluster):
    cluster.looks = 2
    assert submit("--no-wait").exit_code == 0
    second = submit()
    assert len(cluster.asked) == 1, "it was there"
    assert "is there already" in second.stderr
    for _ in range(10):
        assert submit().exit_code == 0
    base = cluster.asked[0]["submission_id"]
    assert [a["submission_id"] for a in cluster.asked] == [base, *(f"{base}-{n}" for n in range(2, 12))]
    assert len({a["entrypoint"] for a in cluster.asked}) == 1, "the same storage, so that it goes on"


def test_a_job_of_the_same_beginning_is_another(cluster):
    base = request().submission_id
    cluster.jobs = [Job(f"{base}0-7"), Job(f"x{base}"), Job(f"{base}-2x")]
    assert ray_jobs.newest(cluster, base) == (None, 0)


def test_a_job_is_asked_about_and_stopped_by_the_same_words(cluster):
    with pytest.raises(ConfigError, match="this cluster has no job quadratic-"):
        CliRunner().invoke(cli, ["submit", "quadratic", *ADDRESS, "--storage", "/a", "--stop"], catch_exceptions=False)
    cluster.looks = 99
    submit("--no-wait")
    asked = submit("--status", "--json")
    assert (asked.exit_code, json.loads(asked.stdout)["status"]) == (0, "PENDING")
    assert json.loads(asked.stdout)["exit_code"] is None
    cluster.looks = 2
    stopped = submit("--stop")
    assert (stopped.exit_code, stopped.stdout.split(": ")[1]) == (0, "STOPPED, exit code 130\n")
    assert len(cluster.asked) == 1
    again = submit("--stop")
    assert "has ended (STOPPED), so there is nothing to stop" in str(again.exception)


def test_a_log_that_breaks_off_is_not_the_end(cluster):
    cluster.breaks, cluster.looks, cluster.ends = RuntimeError("closed"), 3, ("FAILED", 3)
    printed: list[str] = []
    name, _ = ray_jobs.begin(cluster, request())
    assert ray_jobs.exit_code(ray_jobs.follow(cluster, name, printed.append, lambda s: None)) == 3
    assert "broken off" in printed[-1]


def test_who_stops_to_look_leaves_the_job_running(cluster):
    cluster.breaks = KeyboardInterrupt()
    name, _ = ray_jobs.begin(cluster, request())
    with pytest.raises(InterruptedStudyError, match="it goes on: the same command follows it again"):
        ray_jobs.follow(cluster, name, lambda text: None)
    assert ray_jobs.status_of(cluster.jobs[0]) == "PENDING"


def test_a_cluster_that_falls_silent_is_waited_for_and_then_given_up(cluster, monkeypatch):
    waited: list[float] = []
    name, _ = ray_jobs.begin(cluster, request())

    def silent(job_id: str) -> Job:
        raise ConnectionError("refused")

    monkeypatch.setattr(cluster, "get_job_info", silent)
    with pytest.raises(ClusterLostError, match="goes on once a cluster is there"):
        ray_jobs.follow(cluster, name, lambda text: None, waited.append)
    assert sum(waited) == 60


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://head:10001", "auto"])
def test_an_address_that_is_no_dashboard_is_refused(address):
    with pytest.raises(ConfigError, match="give http://HOST:8265"):
        dashboard.connect(address)


def test_an_address_where_nobody_answers_is_told_and_no_other_is_taken(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    with pytest.raises(InfeasibleError, match=r"no cluster takes jobs at http://127\.0\.0\.1:1 .*127\.0\.0\.1:1\b"):
        dashboard.connect("http://127.0.0.1:1")


REFUSED_STORAGE = {
    "none": (None, False, "say where the study lives"),
    "relative": ("scaleexp-results/mine", False, "copy of the working directory that Ray throws away"),
    "home that no shell has expanded": ("~/mine", False, "copy of the working directory"),
    "unknown scheme": ("hdfs://host/mine", False, "it is unknown"),
    "temporary": ("/tmp/mine", True, "that every node of the cluster has for itself"),
    "temporary by address": ("file:///tmp/mine", True, "that every node of the cluster has for itself"),
    "home of the container": ("/home/ray/mine", True, "that every node of the cluster has for itself"),
}


@pytest.mark.parametrize(("storage", "several", "says"), REFUSED_STORAGE.values(), ids=REFUSED_STORAGE)
def test_storage_that_not_every_node_sees_is_refused_with_the_remedy(storage, several, says):
    with pytest.raises(ConfigError, match=says) as caught:
        checked_storage(storage, several_nodes=several)
    assert "--storage /shared/NAME" in str(caught.value)


@pytest.mark.parametrize("storage", ["/shared/mine", "/tmpfiles/mine", "gs://bucket/mine", "az://container/mine"])
def test_storage_that_every_node_may_see_is_taken(storage):
    assert checked_storage(storage, several_nodes=True) == storage
    assert checked_storage("/tmp/mine", several_nodes=False) == "/tmp/mine"


def test_what_travels_is_the_study_and_its_neighbours(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    study = load_study("studies/mine.yaml")
    made = job_request("studies/mine.yaml", study, storage="/shared/mine")
    assert shlex.split(made.entrypoint)[2] == "./studies/mine.yaml"
    assert made.runtime_env["working_dir"] == "."
    assert set(LEFT_OUT) <= set(made.runtime_env["excludes"])
    inner = job_request("studies/mine.yaml", study, storage="/shared/mine", working_dir="studies")
    assert shlex.split(inner.entrypoint)[2] == "./mine.yaml"
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match=r"outside the working directory .* --working-dir"):
        job_request("studies/mine.yaml", study, storage="/shared/mine", working_dir="other")
    with pytest.raises(ConfigError, match="is no directory"):
        job_request("studies/mine.yaml", study, storage="/shared/mine", working_dir="nowhere")


REFUSED_ENVIRONMENTS = {
    "package of any version": ({"pip": ["einops"]}, "'einops' without its version"),
    "package of a range": ({"uv": {"packages": ["einops>=0.8"]}}, "uv asks for 'einops>=0.8'"),
    "working directory": ({"working_dir": "."}, "give it as --working-dir"),
    "secret": ({"env_vars": {"HF_TOKEN": "hf_0123456789"}}, "holds HF_TOKEN, which looks like a secret"),
}


@pytest.mark.parametrize(("given", "says"), REFUSED_ENVIRONMENTS.values(), ids=REFUSED_ENVIRONMENTS)
def test_a_runtime_environment_is_pinned_and_holds_no_secret(given, says):
    with pytest.raises(ConfigError, match=says):
        environment(given, None)


def test_a_runtime_environment_is_read_from_a_file_and_kept(tmp_path):
    file = tmp_path / "environment.yaml"
    pinned = tmp_path / "requirements.txt"
    pinned.write_text("# of the study\neinops==0.8.1  # tensors\n--index-url https://pypi.org/simple\n")
    file.write_text(f"pip: {pinned}\nenv_vars: {{OMP_NUM_THREADS: '1'}}\n")
    made = request(runtime_env=str(file)).runtime_env
    assert made["pip"] == str(pinned)
    assert made["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert int(made["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30, "Ray kills after three seconds otherwise"


def test_a_typing_error_is_told_before_any_cluster_is_asked(monkeypatch):
    monkeypatch.setattr(dashboard, "connect", lambda address: pytest.fail("asked"))
    done = submit("--set", "worker_batchs=3")
    assert "did you mean 'worker_batch'?" in str(done.exception)
    assert "copy of the working directory" in str(submit(storage="here").exception)
    assert "two commands" in str(submit("--stop", "--status").exception)


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, tuple[int, Any]]]]:
    """Address of something that answers as it is told to: path -> (status, JSON)."""
    answers: dict[str, tuple[int, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as the base class names it
            code, content = answers.get(self.path.partition("?")[0], (404, {}))
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", answers
        listening.shutdown()


def test_a_cluster_that_wants_a_token_says_what_to_set(server):
    address, answers = server
    answers["/api/version"] = (401, {"detail": "Unauthorized"})
    with pytest.raises(ConfigError, match="asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"):
        dashboard.connect(address)


@pytest.mark.parametrize(
    ("cpus", "several"), [([4.0], False), ([4.0, 4.0], True), ([None], True)], ids=["one", "two", "a head alone"]
)
def test_the_nodes_of_a_cluster_are_counted_and_a_head_without_cpus_is_not_all_of_them(server, cpus, several):
    address, answers = server
    answers["/api/version"] = (200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"})
    nodes = [
        {
            **{"node_id": f"{i:056x}", "node_ip": "127.0.0.1", "is_head_node": i == 0, "state": "ALIVE"},
            **{"node_name": "n", "resources_total": {"CPU": cpu} if cpu else {}, "labels": {}, "state_message": None},
        }
        for i, cpu in enumerate(cpus)
    ]
    found = {"total": len(nodes), "num_after_truncation": len(nodes), "num_filtered": len(nodes), "result": nodes}
    answers["/api/v0/nodes"] = (200, {"result": True, "msg": "", "data": {"result": found}})
    assert dashboard.connect(address).several_nodes is several


def test_the_ignore_file_for_rays_own_command_names_the_same():
    lines = (Path(__file__).parents[1] / ".rayignore").read_text().splitlines()
    assert {line.rstrip("/") for line in lines if line[0] != "#"} == set(LEFT_OUT)
