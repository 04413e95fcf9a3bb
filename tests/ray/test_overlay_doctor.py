"""`mantaray doctor` on real Rays: everything fits, and is known so well that nothing is parsed."""

from __future__ import annotations

import json
import subprocess

from tests.support.rays import RayEnv


def test_every_target_of_a_supported_ray_fits(ray_env: RayEnv) -> None:
    result = subprocess.run(
        [str(ray_env.python), "-m", "mantaray.cli", "doctor", "--json"],
        env=ray_env.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["ray"]["version"] == ray_env.version
    assert told["problem"] is None
    assert "spill" in {patch["name"] for patch in told["patches"]}
    for patch in told["patches"]:
        assert patch["state"] in ("active", "native"), patch
        if patch["state"] == "active":
            for target in patch["targets"]:
                # Compared in full here, while a worker trusts the digest of the file.
                assert target["problem"] is None
                assert target["trusted"], target
