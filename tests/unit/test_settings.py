"""Settings: what each variable accepts, what it says when it does not, and the table of all."""

from __future__ import annotations

import pytest
from mantaray.settings import SETTINGS, Setting, SettingError

from mantaray import settings


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        (settings.DISABLE, "0", False),
        (settings.DISABLE, "1", True),
        (settings.DISABLE, "False", False),
        (settings.DISABLE, " TRUE ", True),
        (settings.PATCHES, "spill", ("spill",)),
        (settings.PATCHES, "spill, -router,all", ("spill", "-router", "all")),
        (settings.REPORT_DIR, "/reports", "/reports"),
        (settings.SPILL_CACHE, "auto", "auto"),
        (settings.SPILL_CACHE, "keep", "keep"),
        (settings.SPILL_CACHE, "drop", "drop"),
        (settings.SPILL_CACHE, "direct", "direct"),
        (settings.SPILL_RESERVE_BYTES, "0", 0),
        (settings.SPILL_RESERVE_BYTES, "99999999999999", 99_999_999_999_999),
        (settings.SPILL_PUNCH_DELAY_MS, "0", 0),
        (settings.SPILL_PUNCH_DELAY_MS, "60000", 60_000),
        (settings.SPILL_READAHEAD_BYTES, "0", 0),
        (settings.SPILL_READAHEAD_BYTES, "1073741824", 1_073_741_824),
        (settings.MAX_SPILLING_FILE_SIZE_BYTES, "-1", -1),
        (settings.MAX_SPILLING_FILE_SIZE_BYTES, "+5", 5),
    ],
    ids=lambda part: part.name if isinstance(part, Setting) else repr(part),
)
def test_allowed_values_are_read(setting: Setting[object], text: str, value: object) -> None:
    assert setting.read({setting.name: text}) == value


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (settings.DISABLE, "yes"),
        (settings.DISABLE, "2"),
        (settings.PATCHES, ","),
        (settings.PATCHES, "spill,,router"),
        (settings.PATCHES, "-"),
        (settings.PATCHES, "-all"),
        (settings.PATCHES, "spill router"),
        (settings.REPORT_DIR, "reports"),
        (settings.REPORT_DIR, "~/reports"),
        (settings.SPILL_CACHE, "Keep"),
        (settings.SPILL_CACHE, "none"),
        (settings.SPILL_RESERVE_BYTES, "-1"),
        (settings.SPILL_RESERVE_BYTES, "1GB"),
        (settings.SPILL_RESERVE_BYTES, "1e9"),
        (settings.SPILL_RESERVE_BYTES, "1_000"),
        (settings.SPILL_RESERVE_BYTES, "\u0663"),
        (settings.SPILL_PUNCH_DELAY_MS, "60001"),
        (settings.SPILL_PUNCH_DELAY_MS, "2.5"),
        (settings.SPILL_READAHEAD_BYTES, "1073741825"),
        (settings.MAX_SPILLING_FILE_SIZE_BYTES, "-"),
        (settings.MAX_SPILLING_FILE_SIZE_BYTES, "many"),
    ],
    ids=lambda part: part.name if isinstance(part, Setting) else repr(part),
)
def test_a_bad_value_names_variable_value_and_what_is_allowed(
    setting: Setting[object], text: str
) -> None:
    with pytest.raises(SettingError) as caught:
        setting.read({setting.name: text})
    assert str(caught.value) == f"{setting.name} is set to {text!r}; allowed: {setting.allowed}"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("environ", [{}, {"": ""}], ids=["unset", "other"])
def test_unset_is_the_default(setting: Setting[object], environ: dict[str, str]) -> None:
    assert setting.read(environ) == setting.default
    assert setting.read({setting.name: "  "}) == setting.default


def test_the_environment_of_this_process_is_read_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MANTARAY_SPILL_PUNCH_DELAY_MS", "5")
    assert settings.SPILL_PUNCH_DELAY_MS.read() == 5
    monkeypatch.setenv("MANTARAY_SPILL_PUNCH_DELAY_MS", "6")
    assert settings.SPILL_PUNCH_DELAY_MS.read() == 6


def test_the_defaults_as_the_table_shows_them() -> None:
    assert {setting.name: setting.describe_default() for setting in SETTINGS} == {
        "MANTARAY_DISABLE": "0",
        "MANTARAY_PATCHES": "all",
        "MANTARAY_LOG_RETENTION_BYTES": "unset: all logs stay",
        "MANTARAY_LOG_RETENTION_AGE_S": "unset: logs stay",
        "MANTARAY_UNTESTED_RAY": "0",
        "MANTARAY_REPORT_DIR": "unset",
        "MANTARAY_SPILL_CACHE": "auto",
        "MANTARAY_SPILL_RESERVE_BYTES": "1 GiB, at most 5 % of the file system",
        "MANTARAY_SPILL_PUNCH_DELAY_MS": "2000",
        "MANTARAY_SPILL_READAHEAD_BYTES": "4194304",
        "MANTARAY_SPILL_GET_BYTES": "268435456",
        "MANTARAY_SPILL_IO_DEADLINE_MS": "60000",
        "MANTARAY_SPILL_CHECK_PULLS": "1",
        "MANTARAY_LOG_REWRITES": "last",
        "RAY_max_spilling_file_size_bytes": "unset",
        "RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S": "0.025",
        "RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER": "2.0",
        "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.5",
        "MANTARAY_SERVE_BACKOFF_JITTER": "0.0",
        "RAY_start_python_gc_manager_thread": "1",
        "MANTARAY_GC_TIME_SHARE": "0.02",
        "MANTARAY_GC_SHORT_PAUSE_MS": "25",
        "MANTARAY_GC_IDLE_DELAY_MS": "2000",
        "MANTARAY_GC_RSS_LIMIT_BYTES": "a quarter more than after the last full collection",
        "MANTARAY_GC_HUGE_PAGES": "1",
        "MANTARAY_REFS_WATCH_INTERVAL_MS": "100",
        "MANTARAY_RELAY_PORT": "unset",
        "MANTARAY_RELAY_ADMIN_PORT": "unset: none",
        "MANTARAY_RELAY_HOST": "unset: the head's --node-ip-address",
        "MANTARAY_RELAY_UPSTREAM_TIMEOUT_MS": "5000",
        "MANTARAY_RELAY_MAX_MEMORY_BYTES": "four fifths of the memory of the container or the machine",
    }


def test_a_name_of_rays_own_is_marked_as_such() -> None:
    for setting in SETTINGS:
        if setting.name.startswith("RAY_"):
            assert setting.name in (setting.upstream, f"RAY_{setting.upstream}")
        else:
            assert setting.upstream is None
            assert setting.name.startswith("MANTARAY_")
