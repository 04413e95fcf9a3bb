"""Makes docs/reference and the dashboard from Mantaray and its sources, so that they always agree.

python -m tools.reference            writes the pages
python -m tools.reference --check    names the pages that differ, and fails if there are any
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click
from mantaray.cli.main import main as mantaray_command
from mantaray.settings import SETTINGS, Setting

from tools.architecture import picture
from tools.dashboard import dashboard
from tools.markdown import table
from tools.messages import by_component, native_messages, python_messages
from tools.metrics import Metric, node_metrics, relay_metrics

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = REPOSITORY / "docs"
PYTHON = REPOSITORY / "python" / "mantaray"
RELAY = REPOSITORY / "src" / "mantaray" / "relay"
REMAKE = "`.venv/bin/python -m tools.reference`"
# The first group that matches a setting's name is where it is shown.
GROUPS: Mapping[str, str] = {
    "Spilling": r"SPILL|spilling",
    "Serve": r"SERVE",
    "Garbage collection": r"_GC_|gc_manager",
    "Logs": r"LOG_",
    "Object references": r"REFS",
    "Relay": r"RELAY",
    "All of Mantaray": r".",
}
_SETTINGS_OPENING = f"""\
# Settings

This page lists every setting of Mantaray. A setting is an environment variable of the process that reads
it. An empty variable counts as unset. `mantaray settings` prints the same list, with the values in force.

Set a variable where you run `ray start`, so that all processes of the node inherit it. If you set a value
that is not allowed, `ray start` ends and prints one sentence with the variable, the value and the allowed
values.

This page is made by {REMAKE}. Do not edit it.
"""
_MESSAGES_OPENING = f"""\
# Messages

This page lists every error and every warning of Mantaray, so that you can search for the words that you
saw. An ellipsis stands for what is filled in. Most messages say themselves what to do.
[Troubleshooting](../troubleshooting.md) starts from what you see in a cluster.

The errors of the native code (the last tables) reach you inside a message of the Python code, in the log of
an IO worker, or in the log of the relay.

This page is made by {REMAKE}. Do not edit it.
"""
_SYNC_MESSAGES_OPENING = f"""\
# Format of sync messages

This page shows the bytes that raylets, the GCS and relays send one another on a sync stream. A relay
speaks the format of Ray 2.48 to 2.60. [The relay](../relay.md) explains what the messages are for.

The opening comment of the schema describes the two dialects and the metadata of a stream. Tests compare the
schema with what the `gcs_server` of each Ray carries.

This page is made by {REMAKE}. Do not edit it.
"""
_METRICS_OPENING = f"""\
# Metrics

This page lists every metric of Mantaray. [Alerts and dashboards](../monitoring.md) says how to collect
them, and has alert rules and a Grafana dashboard.

This page is made by {REMAKE}. Do not edit it.
"""
_METRICS_NOTES = {
    "Of each node": """\
The agent of a node exports these beside Ray's own metrics, at the port that Ray lists as its metrics export
port. Ray adds the label `ip` and labels of its own. Ray exports all of them as gauges, sums too. The number
of series does not depend on the number of processes or objects.

The metrics of spilling appear when an IO worker of the node has started. Sums cover all IO workers since
the agent of the node started, ended ones too. Live and disk bytes are read from the spill directories in
the background, at most every ten seconds and with about 1 % of a processor, so on a node with millions of
objects they may be minutes old.
""",
    "Of each relay": """\
A relay exports these at `/metrics` of its `--admin-listen` address. A histogram has the series `_bucket`,
`_sum` and `_count`.
""",
}
_COMMANDS_OPENING = f"""\
# Commands

This page lists every command of the `mantaray` program with its options.

This page is made by {REMAKE}. Do not edit it.
"""


def pages() -> dict[str, str]:
    """Return every generated file by its path below docs."""
    return {
        "reference/settings.md": settings_page(SETTINGS),
        "reference/commands.md": commands_page(mantaray_command),
        "reference/messages.md": messages_page(),
        "reference/metrics.md": metrics_page(),
        "reference/sync-messages.md": sync_messages_page(),
        "monitoring/mantaray-dashboard.json": dashboard(all_metrics()),
        "images/architecture.svg": picture(),
    }


def settings_page(settings: Iterable[Setting[object]]) -> str:
    """Return the page of settings, one table a group."""
    rows: dict[str, list[tuple[str, ...]]] = {title: [] for title in GROUPS}
    for setting in settings:
        title = next(title for title, name in GROUPS.items() if re.search(name, setting.name))
        own = f"`{setting.name}`" + (" (Ray's own)" if setting.upstream else "")
        rows[title].append((own, setting.describe_default(), setting.allowed, setting.doc))
    head = ("setting", "default", "allowed", "what it does")
    # What concerns everything comes first.
    shown = sorted(rows, key=lambda title: title != "All of Mantaray")
    tables = [f"\n## {title}\n\n{table(head, rows[title])}" for title in shown if rows[title]]
    return _SETTINGS_OPENING + "".join(tables)


def commands_page(command: click.Command) -> str:
    """Return the page of commands: each command of the tree with its usage, help and options."""
    context = click.Context(command, info_name="mantaray")
    return _COMMANDS_OPENING + "".join(_command(command, context))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    depth = "#" * min(1 + context.command_path.count(" "), 4)
    if context.parent is not None:
        yield f"\n{depth} {context.command_path}\n\n"
        yield f"```\n{context.command_path} {usage}\n```\n"
        yield f"\n{_paragraphs(command.help or '')}\n"
        rows = [
            record
            for parameter in command.get_params(context)
            if (record := parameter.get_help_record(context)) and "--help" not in record[0]
        ]
        if rows:
            yield "\n" + table(("option", "meaning"), [(f"`{name}`", doc) for name, doc in rows])
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None, f"{context.command_path} lists {name} and has it not"
        yield from _command(below, click.Context(below, info_name=name, parent=context))


def messages_page() -> str:
    """Return the page of messages: a table a component, Python's before those of the native code."""
    tables = []
    for language, messages in (
        ("", python_messages(PYTHON)),
        ("Native code: ", native_messages(REPOSITORY / "src" / "mantaray")),
    ):
        for component, found in by_component(list(messages)).items():
            rows = [(each.text, each.remedy, f"`{each.kind}`") for each in found]
            tables.append(f"\n## {language}{component}\n\n")
            tables.append(table(("message", "what to do", "kind"), rows))
    return _MESSAGES_OPENING + "".join(tables)


def all_metrics() -> list[Metric]:
    """Return every metric, those of nodes before those of relays."""
    return [*node_metrics(PYTHON), *relay_metrics(RELAY)]


def metrics_page() -> str:
    """Return the page of metrics."""
    head = ("metric", "type", "labels", "what it says")
    tables = []
    for title, metrics in (
        ("Of each node", node_metrics(PYTHON)),
        ("Of each relay", relay_metrics(RELAY)),
    ):
        rows = [
            (
                f"`{each.name}`",
                each.kind,
                ", ".join(f"`{label}`" for label in each.labels),
                each.description,
            )
            for each in metrics
        ]
        tables.append(f"\n## {title}\n\n{_METRICS_NOTES[title]}\n{table(head, rows)}")
    return _METRICS_OPENING + "".join(tables)


def sync_messages_page() -> str:
    """Return the page of the wire format, which is the schema."""
    schema = (REPOSITORY / "src" / "mantaray" / "proto" / "ray_syncer.proto").read_text()
    return f"{_SYNC_MESSAGES_OPENING}\n```proto\n{schema}```\n"


def _paragraphs(text: str) -> str:
    """Return help text without click's marks and without its line breaks."""
    blocks = [block for block in text.replace("\b\n", "").split("\n\n") if block.strip()]
    return "\n\n".join(" ".join(block.split()) for block in blocks)


def main(arguments: Sequence[str]) -> int:
    """Write the pages or check them; return the exit status."""
    if list(arguments) not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    differing = [name for name, text in pages().items() if _written(name) != text]
    if arguments:
        for name in differing:
            print(f"docs/{name} is out of date; run {REMAKE}", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        (PAGES / name).parent.mkdir(exist_ok=True)
        (PAGES / name).write_text(pages()[name])
        print(f"docs/{name} is made", file=sys.stderr)
    return 0


def _written(name: str) -> str | None:
    path = PAGES / name
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
