"""The slots and layouts of the compiled library of a real Ray, as the adopt tool checks them."""

from __future__ import annotations

from tests.support.rays import RayEnv
from tools import native_check


def test_slots_and_layouts_of_a_known_ray_are_as_expected(ray_env: RayEnv) -> None:
    (library,) = ray_env.root.glob(f"lib/python*/site-packages/{native_check.MEMBER}")
    refused = native_check.check(library)
    assert refused == dict.fromkeys((*native_check.PATCHES, native_check.FINALIZERS))
