"""What reaches the IO workers: the whole list of directories, and a cap that this Ray does not know."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mantaray.spill.config import SpillConfigError

from mantaray.spill import handover

CAP = "max_spilling_file_size_bytes"


def config_of(*directories: str, **more: Any) -> str:
    return json.dumps(
        {"type": "filesystem", "params": {"directory_path": list(directories)}, **more}
    )


def prepared(
    config: str, *system_configs: dict[str, Any], takes_cap: bool = True
) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        handover.prepare(config, list(system_configs), takes_cap=takes_cap)
    )
    return result


def test_a_cap_that_would_end_the_gcs_moves_into_the_spilling_config(tmp_path: Path) -> None:
    system: dict[str, Any] = {CAP: 20_000_000, "other": 1}
    config = prepared(config_of(str(tmp_path)), system, system, takes_cap=False)
    assert config[CAP] == 20_000_000
    assert system == {"other": 1}


def test_a_cap_that_this_ray_knows_stays_where_it_is(tmp_path: Path) -> None:
    system: dict[str, Any] = {CAP: 20_000_000}
    assert CAP not in prepared(config_of(str(tmp_path)), system)
    assert system == {CAP: 20_000_000}


def test_a_cap_that_is_no_number_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpillConfigError, match=f"^{CAP} in Ray's system config is 'lots'; "):
        prepared(config_of(str(tmp_path)), {CAP: "lots"}, takes_cap=False)


def test_the_cap_is_taken_out_whatever_the_type_of_storage() -> None:
    other = json.dumps({"type": "smart_open", "params": {"uri": "s3://bucket"}})
    system: dict[str, Any] = {CAP: 1}
    assert handover.prepare(other, [system], takes_cap=False) == other
    assert system == {}
    assert handover.directories_of_node(other, {}) == []


def test_the_raylet_is_told_of_the_directory_with_most_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    sealed = str(tmp_path / "sealed")
    rooms = {small: (True, 5), large: (True, 9), sealed: (False, 99)}
    monkeypatch.setattr(handover, "_room", rooms.__getitem__)
    config = prepared(config_of(sealed, small, large))
    assert config["params"]["directory_path"] == [large]
    assert handover.directories_in(config) == [large, small, sealed]


def test_one_directory_stays_as_it_was_given(tmp_path: Path) -> None:
    given = json.dumps({"type": "filesystem", "params": {"directory_path": str(tmp_path)}})
    assert prepared(given) == json.loads(given)
    assert handover.directories_in(json.loads(given)) == [str(tmp_path)]


def test_room_is_that_of_the_disk_where_a_directory_will_be_made(tmp_path: Path) -> None:
    info = os.statvfs(tmp_path)
    writable, found_bytes = handover._room(str(tmp_path / "not" / "yet"))
    assert writable
    assert abs(found_bytes - info.f_bavail * info.f_frsize) < 1 << 30
    assert handover._room("x" * 300) == (False, 0)


def test_a_node_keeps_its_own_list_beside_the_heads(tmp_path: Path) -> None:
    own = json.dumps(prepared(config_of("/own", "/more")))
    first = json.loads(own)["params"]["directory_path"][0]
    # As Ray 2.60 decides: the node's own first directory in the head's configuration.
    head = prepared(config_of("/head", "/heads-second"))
    head["params"]["directory_path"] = first
    decided = {"object_spilling_config": json.dumps(head)}
    assert sorted(handover.directories_of_node(own, decided)) == ["/more", "/own"]


def test_a_node_without_directories_of_its_own_takes_the_heads_list() -> None:
    head = json.dumps(prepared(config_of("/head", "/heads-second")))
    own = config_of("/tmp/session")
    found = handover.directories_of_node(own, {"object_spilling_config": head})
    assert sorted(found) == ["/head", "/heads-second"]


def test_the_list_is_in_the_environment_only_while_the_raylet_starts(tmp_path: Path) -> None:
    directories = [str(tmp_path / "a"), str(tmp_path / "b")]
    for directory in directories:
        os.mkdir(directory)
    device = tmp_path.stat().st_dev
    with handover.handing_on(directories):
        assert handover.handed_on(directories[:1]) == [(path, device) for path in directories]
        assert handover.handed_on(directories) == [(path, device) for path in directories]
        # Another cluster, started from inside this one.
        assert handover.handed_on([str(tmp_path)]) is None
        with handover.handing_on([]):
            assert handover.handed_on(directories[:1]) is None
        assert handover.handed_on(directories[:1]) is not None
    assert handover.DIRECTORIES_VARIABLE not in os.environ


def test_a_directory_that_is_not_there_is_handed_on_without_a_device(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with handover.handing_on([str(tmp_path), missing]):
        handed_on = handover.handed_on([str(tmp_path)])
    assert handed_on == [(str(tmp_path), tmp_path.stat().st_dev), (missing, 0)]


@pytest.mark.parametrize(("text", "cap"), [("20000000", 20_000_000), ("-1", -1)])
def test_a_cap_given_as_text_counts(text: str, cap: int, tmp_path: Path) -> None:
    assert prepared(config_of(str(tmp_path)), {CAP: text}, takes_cap=False)[CAP] == cap
