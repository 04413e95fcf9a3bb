"""`mantaray doctor`: which Ray is there, and what became of each patch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mantaray.cli.output import VERSION, CliError, table
from mantaray.overlay.checks import Finding
from mantaray.overlay.doctor import (
    Diagnosis,
    PatchDiagnosis,
    UnreadableWheelError,
    diagnose,
    diagnose_wheel,
)
from mantaray.overlay.owners import ownership_problem


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with each target of each patch.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="WHEEL",
    help="Check a wheel of Ray instead, without installing it.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Ask every node of the running cluster, and mark the nodes that differ.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="The cluster for --cluster; by default that of RAY_ADDRESS or of this machine.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long --cluster waits for the nodes to answer; 60 by default.",
)
@click.pass_context
def doctor(
    ctx: click.Context,
    as_json: bool,
    against: Path | None,
    cluster: bool,
    address: str | None,
    timeout_s: float | None,
) -> None:
    """Show what is attached to the installed Ray, and why or why not.

    The exit status is 0 only if nothing was refused, and no other package owns Mantaray's files. With
    --cluster it is 0 only if every node answers, nothing is refused anywhere and all nodes are alike.
    """
    if cluster:
        if against is not None:
            raise click.UsageError("--cluster and --against ask different things; give one of them")
        # Imported here, because only --cluster needs these modules.
        from mantaray.cli.cluster import show_cluster

        text, is_healthy = show_cluster(address, as_json, timeout_s)
        click.echo(text)
        ctx.exit(0 if is_healthy else 1)
    if address is not None or timeout_s is not None:
        raise click.UsageError("--address and --timeout go with --cluster")
    try:
        diagnosis = diagnose() if against is None else diagnose_wheel(against)
    except UnreadableWheelError as error:
        raise CliError(str(error), "give the path of a ray-*.whl file") from error
    click.echo(json.dumps(_as_json(diagnosis), indent=2) if as_json else _as_text(diagnosis))
    stranger = ownership_problem() if against is None else None
    if stranger is not None:
        raise CliError(stranger.text, stranger.hint)
    if diagnosis.problem is not None:
        raise CliError(diagnosis.problem.text, diagnosis.problem.hint)
    ctx.exit(0 if diagnosis.healthy else 1)


def _as_text(diagnosis: Diagnosis) -> str:
    ray = "no Ray"
    if diagnosis.ray_version is not None:
        ray = f"Ray {diagnosis.ray_version} at {diagnosis.ray_path}"
    rows = [(p.status.name, p.status.state.value, p.status.why) for p in diagnosis.patches]
    return f"Mantaray {VERSION}, {ray}\n\n" + table(("patch", "state", "why"), rows)


def _as_json(diagnosis: Diagnosis) -> dict[str, object]:
    path = diagnosis.ray_path
    return {
        "mantaray": VERSION,
        "ray": {
            "version": diagnosis.ray_version,
            "path": None if path is None else str(path),
        },
        "problem": diagnosis.problem and diagnosis.problem.text,
        "patches": [_patch_as_json(patch) for patch in diagnosis.patches],
    }


def _patch_as_json(patch: PatchDiagnosis) -> dict[str, object]:
    return {
        "name": patch.status.name,
        "summary": patch.status.summary,
        "state": patch.status.state.value,
        "why": patch.status.why,
        "targets": [_finding_as_json(finding) for finding in patch.findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, object]:
    return {
        "module": finding.target.module,
        "attribute": finding.target.attribute,
        "expected": finding.expected,
        "found": finding.found,
        "digest": finding.digest,
        "trusted": finding.trusted,
        "problem": finding.problem,
    }
