"""What spilling is told: caps, and one sentence for each thing that cannot work."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from mantaray.spill.config import (
    DEFAULT_FUSED_BYTES,
    DEFAULT_SEGMENT_BYTES,
    SpillConfigError,
    directories_of,
    make_node_directory,
    make_usable,
    read_config,
)

from mantaray import knobs, settings

CAP = settings.MAX_SPILLING_FILE_SIZE_BYTES.name
SYSTEM_CAP = "max_spilling_file_size_bytes"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in settings.SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)


def sentence_of(error: pytest.ExceptionInfo[SpillConfigError]) -> str:
    """Return the message, once it is known to be a single sentence that `ray start` prints as it is."""
    message = str(error.value)
    assert isinstance(error.value, click.ClickException)
    assert error.value.format_message() == message
    assert "\n" not in message
    assert ". " not in message
    return message


@pytest.mark.parametrize("cap", ["-1", "0", None])
def test_without_a_cap_the_defaults_apply(cap: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if cap is not None:
        monkeypatch.setenv(CAP, cap)
    config = read_config({})
    assert (config.max_segment_bytes, config.max_fused_bytes) == (
        DEFAULT_SEGMENT_BYTES,
        DEFAULT_FUSED_BYTES,
    )
    assert config.reserve_bytes is None


def test_a_cap_holds_for_segments_and_fused_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAP, "1000000")
    config = read_config({})
    assert (config.max_segment_bytes, config.max_fused_bytes) == (1_000_000, 1_000_000)


def test_the_cap_of_the_system_config_holds() -> None:
    assert read_config({SYSTEM_CAP: 5_000_000}).max_segment_bytes == 5_000_000


def test_the_environments_cap_wins_over_the_system_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CAP, "0")
    assert read_config({SYSTEM_CAP: 5_000_000}).max_segment_bytes == DEFAULT_SEGMENT_BYTES


def test_a_cap_in_the_system_config_that_is_no_number() -> None:
    with pytest.raises(SpillConfigError) as error:
        read_config({SYSTEM_CAP: "lots"})
    assert sentence_of(error) == (
        "max_spilling_file_size_bytes in Ray's system config is 'lots'; give a number of bytes."
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (CAP, "1MB"),
        ("MANTARAY_SPILL_RESERVE_BYTES", "-1"),
        ("MANTARAY_SPILL_CACHE", "maybe"),
        ("MANTARAY_SPILL_READAHEAD_BYTES", "1073741825"),
        ("MANTARAY_SPILL_PUNCH_DELAY_MS", "60001"),
        ("MANTARAY_SPILL_IO_DEADLINE_MS", "999"),
        ("MANTARAY_SPILL_CHECK_PULLS", "perhaps"),
    ],
)
def test_a_setting_out_of_range(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SpillConfigError) as error:
        read_config({})
    assert sentence_of(error).startswith(f"{name} is set to '{value}'; allowed: ")


@pytest.mark.parametrize(
    ("value", "expected"), [("/a", ["/a"]), (["/a"], ["/a"]), (["/a", "/b"], ["/a", "/b"])]
)
def test_directory_path_is_one_or_a_list(value: object, expected: list[str]) -> None:
    assert directories_of({"directory_path": value, "buffer_size": 1}) == expected


@pytest.mark.parametrize("value", [None, "", [], [""], ["/a", 3], 7, {"path": "/a"}])
def test_a_directory_path_that_is_none(value: object) -> None:
    with pytest.raises(SpillConfigError) as error:
        directories_of({"directory_path": value})
    assert sentence_of(error) == (
        f"object spilling directory_path is {value!r}; give a directory or a list of them."
    )


def test_a_buffer_size_that_is_no_number() -> None:
    with pytest.raises(SpillConfigError) as error:
        directories_of({"directory_path": "/a", "buffer_size": "abc"})
    assert sentence_of(error) == "object spilling buffer_size is 'abc'; give a number of bytes."


def test_an_unknown_key() -> None:
    with pytest.raises(SpillConfigError) as error:
        directories_of({"directory_path": "/a", "bufer_size": 1})
    assert sentence_of(error) == (
        "object spilling config has the unknown key 'bufer_size'; "
        "'filesystem' takes directory_path and buffer_size."
    )


def test_a_node_directory_is_made_with_its_parents_and_may_exist(tmp_path: Path) -> None:
    made = make_node_directory(str(tmp_path / "deep" / "er"), "node")
    assert made == str(tmp_path / "deep" / "er" / "node")
    assert make_node_directory(str(tmp_path / "deep" / "er"), "node") == made
    assert Path(made).is_dir()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_where_a_directory_should_be(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = str(tmp_path / "file" / below)
    with pytest.raises(SpillConfigError) as error:
        make_node_directory(directory, "node")
    assert sentence_of(error) == (
        f"object spilling directory {directory} is not a directory; "
        "give Ray one that it can write to."
    )


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    directory = str(tmp_path / ("x" * 300))
    with pytest.raises(SpillConfigError) as error:
        make_node_directory(directory, "node")
    assert sentence_of(error) == (
        f"object spilling directory {directory} cannot be used (File name too long); "
        "give Ray one that it can write to."
    )


def test_a_directory_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the answer of the system is given here.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SpillConfigError) as error:
        make_node_directory(str(tmp_path), "node")
    assert sentence_of(error) == (
        f"object spilling directory {tmp_path} may not be written by this user; "
        "change its permissions or give Ray another."
    )


def test_a_directory_that_cannot_be_used_is_passed_over_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    device = tmp_path.stat().st_dev
    places = [
        (str(tmp_path / "file"), 0),
        (str(tmp_path / "good"), 0),
        (str(tmp_path), device + 1),
        (str(tmp_path / "gone"), device),
    ]
    assert make_usable(places, "node", at_least_one=True) == [str(tmp_path / "good")]
    assert (tmp_path / "good" / "node").is_dir()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    for message, words in zip(messages, ("not a directory", "another disk", "gone"), strict=True):
        assert words in message
        assert message.endswith("It is passed over until it can be used.")


def test_a_node_whose_directories_can_none_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = [(str(tmp_path / "file"), 0)]
    with pytest.raises(SpillConfigError) as error:
        make_usable(places, "node", at_least_one=True)
    assert "is not a directory" in sentence_of(error)
    assert make_usable(places, "node", at_least_one=False) == []


def test_the_bound_that_a_node_chose_for_rays_batches_is_not_one_for_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Fused files would live longer for it, because a file lives as long as its last object.
    monkeypatch.delenv(CAP, raising=False)
    with knobs.handing_on({SYSTEM_CAP: 64 << 20}):
        assert read_config({}).max_fused_bytes == DEFAULT_FUSED_BYTES
