"""A small Mantaray to put into synthetic Ray wheels, and what builds or refuses them."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from mantaray.wheel import WheelError, build_wheel, builder, platform_tag, strict
from mantaray.wheel.contents import ContentFile, Contents, installed_contents
from synthetic_ray import RayWheel, write_release

import mantaray


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds a small Mantaray with the real extension module."""
    root = tmp_path_factory.mktemp("site")
    package = root / "mantaray"
    (package / "part" / "__pycache__").mkdir(parents=True)
    real = Path(mantaray.__file__).parent
    shutil.copy(real / "requirements.txt", package)
    shutil.copy(installed_contents().natives[0].source, package)
    (package / "__init__.py").write_text(f'__version__ = "{mantaray.__version__}"\n')
    (package / "part" / "__init__.py").write_text('"""A part."""\n')
    (package / "part" / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"compiled")
    (package / "_native.cpython-39-nowhere.so").write_bytes(b"\x7fELF of another interpreter")
    (root / "mantaray.pth").write_text("import sys; sys.mantaray_pth_ran = True\n")
    return root


@pytest.fixture(scope="session", autouse=True)
def _one_audit_for_all() -> Iterator[None]:
    """Ask auditwheel once for the same native parts, which takes it a second."""
    known: dict[tuple[bytes, ...], str] = {}

    def remembering(natives: Iterable[ContentFile]) -> str:
        files = list(natives)
        key = tuple(hashlib.sha256(file.source.read_bytes()).digest() for file in files)
        # A test may take auditwheel away.
        if key not in known or sys.modules.get("auditwheel", "there") is None:
            known[key] = platform_tag.audited_tag(files)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "audited_tag", remembering)
        patch.setattr(strict, "audited_tag", remembering)
        yield


@pytest.fixture
def contents(site: Path) -> Contents:
    """The small Mantaray, ready to go into a wheel."""
    return installed_contents(site)


@pytest.fixture
def release(contents: Contents, tmp_path: Path) -> Path:
    """The `ray-mantaray` wheel of the small Mantaray."""
    return write_release(contents, tmp_path / "release")


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    """Where wheels go; does not exist yet."""
    return tmp_path / "out"


@pytest.fixture
def build(contents: Contents, out_dir: Path, tmp_path: Path) -> Callable[[RayWheel], Path]:
    """Return a function that makes a custom wheel of a synthetic official one."""

    def run(ray: RayWheel) -> Path:
        return build_wheel(
            out_dir, source=ray.write(tmp_path / "official"), contents=contents, allow_refused=True
        )

    return run


@pytest.fixture
def refused(contents: Contents, out_dir: Path) -> Callable[..., str]:
    """Return a function that expects an input to be refused without any output, and says how."""

    def run(
        source: Path, *, ray_version: str | None = None, content: Contents | None = None
    ) -> str:
        with pytest.raises(WheelError) as caught:
            build_wheel(
                out_dir,
                ray_version=ray_version,
                source=source,
                contents=content or contents,
                allow_refused=True,
            )
        left = list(out_dir.rglob("*")) if out_dir.exists() else []
        assert left == [], "a refused input leaves no output"
        assert caught.value.hint
        message = str(caught.value)
        assert "\n" not in message
        return message

    return run
