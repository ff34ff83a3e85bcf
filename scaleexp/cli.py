"""The command `scaleexp`: plan a study, run it, list what is built in.

Nothing heavy is imported before a command needs it. Data goes to stdout, messages to stderr.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scaleexp import __version__
from scaleexp.cmd_advise import advise_command
from scaleexp.cmd_frontier import frontier_command
from scaleexp.cmd_probe import probe_command
from scaleexp.cmd_simulate import simulate
from scaleexp.cmd_submit import submit_command
from scaleexp.errors import ConfigError, InterruptedStudyError, NotEnoughDataError, ScaleexpError
from scaleexp.redact import redact
from scaleexp.schema import REPORT_DIR

if TYPE_CHECKING:
    from scaleexp.launch.opening import Prepared
    from scaleexp.launch.runner import Outcome

_WATCH_S = 2.0
_PIPED = 160
"""Columns of a table that no terminal shows."""

F = TypeVar("F", bound=Callable[..., Any])


def _overrides(command: F) -> F:
    return click.option(
        "--set", "overrides", multiple=True, metavar="A.B=C", help="Override a field of the study; the value is YAML."
    )(command)


def _storage(command: F) -> F:
    where = "Directory, or s3://, gs:// or az:// address, where the study lives.  [default: ./scaleexp-results/NAME]"
    return click.option("--storage", metavar="DIR", help=where)(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="scaleexp")
def cli() -> None:
    """How many workers, what batch size, what learning rate, and where does adding more stop paying?

    \b
    scaleexp quickstart            a real study on real data, to a report, in minutes
    scaleexp plan my_study.yaml    what a study would run
    scaleexp run my_study.yaml     run it, or go on with it
    scaleexp status DIR            how far it has come (and `stop` to stop it where it is)
    scaleexp submit my_study.yaml  run it as a job of a Ray cluster elsewhere
    scaleexp doctor [DIR]          what would spoil a study here, and what to do about it
    scaleexp probe my_study.yaml   throughput and memory against batch, on this machine
    scaleexp advise DIR            how many workers, what batch, how long, for how much
    scaleexp simulate --help       workers against time and cost
    scaleexp-analysis --help       fit, draw and report what was run
    """  # noqa: D301  # click's own mark for lines that stay as they are


@cli.command()
@click.argument("study")
@_overrides
@_storage
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option(
    "--calibrate/--no-calibrate", default=True, help="Time a few steps here to estimate time, disk space and cost."
)
def plan(study: str, overrides: Sequence[str], storage: str | None, as_json: bool, calibrate: bool) -> None:
    """Show what STUDY (a built-in name or a YAML file) would run, or has left to run, without running it."""
    prepared = _prepared(study, overrides)
    try:
        document, text = _planned(prepared, _root(prepared, storage), calibrate=calibrate)
    except ConfigError as error:
        if storage:
            raise
        click.echo(f"note: {error}", err=True)
        document, text = _planned(prepared, None, calibrate=calibrate)
    click.echo(json.dumps(document, indent=1) if as_json else text)


@cli.command()
@click.argument("study")
@_overrides
@_storage
@click.option("--yes", is_flag=True, help="Do not ask before starting.")
def run(study: str, overrides: Sequence[str], storage: str | None, yes: bool) -> None:
    """Run STUDY (a built-in name or a YAML file), or go on with it: finished trials never run again."""
    prepared = _prepared(study, overrides)
    if not yes:
        _ask(prepared, storage)
    outcome = _run(prepared, storage)
    click.echo(f"Next: scaleexp-analysis report {outcome.root}")


@cli.command()
@_overrides
@_storage
def quickstart(overrides: Sequence[str], storage: str | None) -> None:
    """Run the built-in quickstart study on real handwritten digits, then fit it, draw it and explain it.

    The same as `scaleexp run quickstart --yes` followed by `scaleexp-analysis report`.
    """
    outcome = _run(_prepared("quickstart", overrides), storage)
    _report(outcome.root)


@cli.command()
@click.argument("directory", metavar="DIR")
@click.option("--watch", is_flag=True, help="Look again every two seconds until nobody runs it.")
@click.option("--all", "everything", is_flag=True, help="Show every batch size, every failure and every trial.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--html", metavar="FILE", help="Write a page with its curves and fit; with --watch one that renews itself."
)
def status(directory: str, watch: bool, everything: bool, as_json: bool, html: str | None) -> None:
    """Say how far the study in DIR has come, from its directory alone."""
    if html:
        from scaleexp.cmd_live import keep_written

        if as_json or everything:
            raise ConfigError("--html writes a page of every trial: leave --json and --all out.")
        keep_written(directory, Path(html), watch=watch, tell=lambda line: click.echo(line, err=True))
        return
    from shutil import get_terminal_size

    from scaleexp.status import status_of
    from scaleexp.status_text import rendered
    from scaleexp.storage import Store

    while True:
        document = status_of(Store(directory))
        if watch and not as_json:
            click.clear()
        width = min(get_terminal_size().columns, 100) if sys.stdout.isatty() else _PIPED
        click.echo(json.dumps(document) if as_json else rendered(document, width=width, everything=everything))
        if not (watch and document["driver"] and document["driver"]["running"]):
            return
        time.sleep(_WATCH_S)


@cli.command()
@click.argument("directory", metavar="DIR")
def stop(directory: str) -> None:
    """Ask who runs the study in DIR to commit every trial where it is, and stop; `scaleexp run` goes on from there."""
    from scaleexp.lease import request_stop
    from scaleexp.status import driver_of
    from scaleexp.status_text import told_last
    from scaleexp.storage import Store

    store = Store(directory)
    if not request_stop(store):
        driver = driver_of(store)[0]
        silent = told_last(driver) if driver and driver["silent_s"] is not None else ""
        raise ConfigError(f"nobody runs a study in {store.root}, so there is nothing to stop{silent}")
    click.echo("asked it to stop; `scaleexp status` says when it has")


@cli.command()
@click.argument("directory", metavar="[DIR]", required=False)
@click.option(
    "--verify", "whole", is_flag=True, help="Check every file of the study in DIR against what was committed."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(directory: str | None, whole: bool, as_json: bool) -> None:
    """Look for what would spoil a study on this machine, on the cluster of RAY_ADDRESS, or in the storage DIR."""
    from scaleexp import doctor as examination

    if whole:
        if not directory:
            raise ConfigError("--verify checks a study: say in which directory")
        _verify(directory, as_json=as_json)
        return
    found = examination.examine(directory)
    document = {"schema_version": 1, "findings": [f.to_dict() for f in found]}
    click.echo(json.dumps(document, indent=1) if as_json else examination.rendered(found))
    sys.exit(max((f.exit_code for f in found if f.state == "problem"), default=0))


def _verify(directory: str, *, as_json: bool) -> None:
    """Check a study's files; exit code 5 if one that counts is not what was written."""
    from scaleexp.storage import Store
    from scaleexp.verify import verify, whole

    found = verify(Store(directory))
    if as_json:
        rows = [{"file": f.file, "kind": f.kind, "problem": f.problem, "remedy": f.remedy} for f in found]
        click.echo(json.dumps({"schema_version": 1, "whole": whole(found), "findings": rows}, indent=1))
    else:
        for f in found:
            click.echo(f"{f.kind:<8} {f.file}: {f.problem}\n         -> {f.remedy}")
        bad = sum(f.kind != "note" for f in found)
        click.echo("every file that counts is what was written" if not bad else f"{bad} files are not what was written")
    sys.exit(0 if whole(found) else 5)


@cli.command(name="list")
@click.argument("what", type=click.Choice(["workloads", "rules", "studies"]))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(what: str, as_json: bool) -> None:
    """List what is built in."""
    found = _built_in(what)
    if as_json:
        click.echo(
            json.dumps({"schema_version": 1, what: [{"name": n, "says": s} for n, s in found.items()]}, indent=1)
        )
    else:
        width = max(map(len, found))
        click.echo("\n".join(f"{name:<{width}}  {says}" for name, says in found.items()))


simulate.add_command(frontier_command)
cli.add_command(simulate)
cli.add_command(advise_command)
cli.add_command(probe_command)
cli.add_command(submit_command)


def main() -> None:
    """Entry point: an error of ours becomes one sentence on stderr and its exit code.

    A study may name code beside it ("my_workload:Class"), so the working directory is importable, here and in workers;
    last, so that nothing in it can stand in for an installed package.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, and not without a word
    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail(InterruptedStudyError("stopped; what was committed is kept, and the same command goes on with the rest"))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ScaleexpError as error:
        _fail(error)


def _fail(error: ScaleexpError) -> None:
    click.echo(f"error: {redact(str(error))}", err=True)
    sys.exit(error.exit_code)


def _prepared(study: str, overrides: Sequence[str]) -> Prepared:
    from scaleexp.config import load_study
    from scaleexp.launch.opening import prepare

    return prepare(load_study(study, overrides))


def _root(prepared: Prepared, storage: str | None) -> str:
    """Where a study lives."""
    return storage or str(Path("scaleexp-results") / prepared.study.name)


def _planned(prepared: Prepared, root: str | None, *, calibrate: bool) -> tuple[dict[str, Any], str]:
    """What is left to run of a study that lives there, or all of it, as JSON and as text.

    Raises:
        ConfigError: the directory holds another study.
    """
    from shutil import get_terminal_size

    from scaleexp import logged_times, spending
    from scaleexp.calibrate import calibrate as calibrated
    from scaleexp.launch.opening import bytes_of, check_held
    from scaleexp.plan_rows import plan_document
    from scaleexp.plan_table import render_plan
    from scaleexp.resume import steps_left
    from scaleexp.storage import Store

    study, trials = prepared.study, prepared.plan.trials
    store = Store(root) if root else None
    held = check_held(prepared, store) if store else None
    left = steps_left(store, trials, prepared.targets) if store else {t.key: t.limit_steps for t in trials}
    limits = spending.before_run(store, study) if store else []
    new = 0 if held else bytes_of(prepared)
    workload = prepared.workload if calibrate else None  # a script cannot be timed before it runs
    found = calibrated(study, workload, trials, left, study_bytes=new) if workload else None
    if store and study.script:
        found = logged_times.calibrated(study, store, trials, left)
    document = plan_document(prepared.plan, study, found, left, limits=limits)
    return document, render_plan(document, width=get_terminal_size().columns if sys.stdout.isatty() else _PIPED)


def _ask(prepared: Prepared, storage: str | None) -> None:
    """Show what is left to run and ask, if anything is; without a terminal there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked, since the input is no terminal: add --yes to start at once")
    document, text = _planned(prepared, _root(prepared, storage), calibrate=True)
    click.echo(text)
    if document["trials"] + document["second_realisations"] and not click.confirm("Start?"):
        raise InterruptedStudyError("not started, as you said; nothing was written")


def _run(prepared: Prepared, storage: str | None) -> Outcome:
    """Run a study and say how it ended.

    Raises:
        InterruptedStudyError: somebody stopped it, or a limit did, or the cluster is gone.
    """
    from scaleexp.launch.runner import run_study

    root = _root(prepared, storage)
    trials = prepared.plan.trials
    batches = sorted({t.batch_size for t in trials})
    click.echo(
        f"{prepared.study.name}: {prepared.study.question}\n"
        f"{len(trials)} trials, batch sizes {batches[0]} to {batches[-1]}, in {root}",
        err=True,
    )
    resume = f"this goes on from there: {shlex.join(_command())}"
    again = InterruptedStudyError(f"stopped; what was committed is kept in {root}, and {resume}")
    try:
        outcome = run_study(prepared, root, lambda line: click.echo(line, err=True), resume=resume)
    except KeyboardInterrupt:
        raise again from None
    if outcome.asked:
        raise again
    click.echo(_summary(outcome))
    if outcome.met:
        raise InterruptedStudyError(_limit_met(outcome))
    return outcome


def _command(*changed: str) -> list[str]:
    """The command that was given, with these overrides in the place of earlier ones of the same fields."""
    words = ["scaleexp", *sys.argv[1:]]
    fields = {override.partition("=")[0] for override in changed}
    stale = {i for i, word in enumerate(words) if words[i - 1] == "--set" and word.partition("=")[0] in fields}
    kept = [word for i, word in enumerate(words) if not {i, i + 1} & stale]
    return [*kept, *(word for override in changed for word in ("--set", override))]


def _limit_met(outcome: Outcome) -> str:
    """Which limit stopped a study, what was used of it, and how to go on."""
    from scaleexp.plan_table import dollars, duration
    from scaleexp.spending import LEAST_S

    met, used = outcome.met, outcome.used
    assert met is not None
    assert used is not None
    of_one_run = met.limit == "limits.wall_s"
    spent = {"limits.gpu_hours": used.gpu_hours, "limits.usd": used.usd}.get(met.limit, 0.0)
    runs = "one run" if used.runs == 1 else f"{used.runs} runs"
    said = {
        "limits.gpu_hours": f"{used.gpu_hours:.3g} GPU hours are used, in {runs}",
        "limits.usd": f"{dollars(used.usd)} are used, in {runs}",
    }.get(met.limit, f"this run took {duration(outcome.seconds)}")
    if met.seconds < LEAST_S:
        said += f", and what is left lasts less than {LEAST_S:g} s, too little to begin"
    too_little = of_one_run and met.seconds < LEAST_S
    higher = 60 * LEAST_S if too_little else 2 * max(met.value, spent)
    command = _command() if of_one_run and not too_little else _command(f"{met.limit}={higher:g}")
    return (
        f"stopped by {met.cause}: {said}; what was committed is kept in {outcome.root} and can be fitted, and "
        f"{'' if command == _command() else 'with a higher limit '}this goes on from there: {shlex.join(command)}"
    )


def _summary(outcome: Outcome) -> str:
    from scaleexp.plan_table import duration

    words = {
        "reached": "reached the target",
        "limit": "ended at the sample limit without it",
        "stopped": "stopped where they were",
        "running": "interrupted (the same command goes on with them)",
        "waiting": "not started",
    }
    parts = [f"{count} {words.get(status, status)}" for status, count in sorted(outcome.ended.items())]
    return f"{'Stopped after' if outcome.met else 'Done in'} {duration(outcome.seconds)}: {', '.join(parts)}."


def _report(root: str) -> None:
    """Fit, draw and explain a study under its own directory, or a local one for a study on an object store.

    Raises:
        NotEnoughDataError: there is no fit; the report was written all the same and says why.
    """
    from analysis.card import agreement_lines, noise_lines
    from analysis.plots import draw_all
    from analysis.report import write_report
    from analysis.study import analyse, answer
    from scaleexp.storage import Store

    study = analyse(root)
    directory = Store(root).results / REPORT_DIR
    figures = draw_all(study, directory)
    page = write_report(study, directory / "report.html")
    if study.fit is None:
        raise NotEnoughDataError(f"{answer(study)} What was measured is in {page}.")
    click.echo("\n".join(["", answer(study), *noise_lines(study), *agreement_lines(study), ""]))
    shown = {**figures, "report": page}
    width = max(map(len, shown))
    click.echo("\n".join(f"{name:<{width}}  {path}" for name, path in shown.items()))
    click.echo(f"\nNext: open the report, or: scaleexp-analysis fit {root}")


def _built_in(what: str) -> dict[str, str]:
    """Name -> one line, for one kind of thing."""
    if what == "workloads":
        from scaleexp.workloads import BUILT_IN

        return dict(BUILT_IN)
    if what == "rules":
        from scaleexp.scaling_rules import RULES

        return {name: (rule.__doc__ or "").strip().splitlines()[0] for name, rule in RULES.items()}
    from scaleexp.config import load_study
    from scaleexp.study_files import builtin_studies

    return {name: load_study(name).question for name in builtin_studies()}
