"""The core of the overlay: decides about each patch, waits for Ray's modules, attaches and detaches.

Locking: `_install_lock` makes a thread that wants Ray wait until the hooks are set; `_lock` guards
the book-keeping and is held for moments only. Checks, installers and everything that undoes them
run outside both. They import modules, so they may wait for a thread that holds an import lock and
waits for one of these locks.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import ModuleType

import mantaray
from mantaray import settings
from mantaray.overlay import checks, deferred, native_module, versions
from mantaray.overlay.decide import Conditions, decide, gather
from mantaray.overlay.imports import when_imported
from mantaray.overlay.index import PATCHES
from mantaray.overlay.installation import Installation
from mantaray.overlay.notices import NOTICES
from mantaray.overlay.patch import Patch, PatchStatus, State
from mantaray.settings import SettingError

_ALIVE = (State.ARMED, State.ACTIVE)


class _Entry:
    """One patch and its state since the last install."""

    def __init__(self, patch: Patch, state: State, why: str) -> None:
        self.patch = patch
        self.state = state
        self.why = why
        self.started: set[str] = set()
        self.attached: list[str] = []

    def note_progress(self) -> None:
        """Note which modules are changed and which are not imported yet."""
        waiting = [name for name in self.patch.installers if name not in self.attached]
        parts = []
        if self.attached:
            self.state = State.ACTIVE
            parts.append("attached to " + ", ".join(self.attached))
        if waiting:
            parts.append("waits for the import of " + ", ".join(waiting))
        self.why = "; ".join(parts)


class Overlay:
    """The patches of one process."""

    def __init__(self) -> None:
        self._make_locks()
        self._forks_watched = False
        self._patches: dict[str, Patch] = {}
        self._broken: dict[str, str] = {}
        self._entries: dict[str, _Entry] = {}
        self._applied: list[tuple[_Entry, Installation]] = []
        self._watched: set[str] = set()
        self._installing = False
        self._installed = False
        self._declined = False
        self._conditions: Conditions | None = None
        self._attaches_early = False

    def _make_locks(self) -> None:
        self._install_lock = threading.RLock()
        self._lock = threading.RLock()
        self._report_lock = threading.Lock()

    def _after_fork(self) -> None:
        """Continue in a child process, which has the attached patches and none of the other threads."""
        self._make_locks()
        self._report()

    def attach_early(self) -> None:
        """Let patches that would attach when Ray is used attach when Ray is imported.

        For a process that only wants to know whether they fit.
        """
        self._attaches_early = True

    def attaches_early(self) -> bool:
        """Return whether `attach_early` was called in this process."""
        return self._attaches_early

    @property
    def conditions(self) -> Conditions | None:
        """The conditions of the last install; None before the first."""
        return self._conditions

    @property
    def broken(self) -> dict[str, str]:
        """Why the module `patch` of a subpackage could not be imported, by subpackage."""
        return dict(self._broken)

    def patches(self) -> list[Patch]:
        """Return the patches that are known, by name."""
        with self._lock:
            return [self._patches[name] for name in sorted(self._patches)]

    def register(self, patch: Patch) -> None:
        """Make a patch known, and attach it if the overlay is installed already.

        Args:
            patch: the patch. Registering the same patch twice counts once.

        Raises:
            ValueError: another patch has that name.
        """
        with self._lock:
            known = self._patches.setdefault(patch.name, patch)
            if deferred.same(known, patch):
                # Its subpackage is being imported, because Ray has imported what the patch changes.
                self._patches[patch.name] = known = patch
            if known != patch:
                raise ValueError(f"two patches are called {patch.name!r}; rename one of them")
            if not self._installed or self._conditions is None or patch.name in self._entries:
                return
            self._enter(patch, self._conditions)
        self._announce()
        self._attach(self._watch())

    def attach(self) -> None:
        """Install, unless the program has uninstalled it before. The bootstrap calls this."""
        if not self._declined:
            self.install()

    def install(self) -> None:
        """Find the patches and attach each that fits, now or when Ray imports what it changes.

        A second call does nothing. A patch that fails raises nothing here: it is refused, and one
        line says so.
        """
        with self._install_lock:
            # The second case is this very thread, because the search for Ray passes our own finder.
            if self._installed or self._installing:
                return
            self._installing = True
            self._declined = False
            if not self._forks_watched:
                self._forks_watched = True
                os.register_at_fork(after_in_child=self._after_fork)
            try:
                self._read_index()
                ray = versions.find_ray()
                with self._lock:
                    self._conditions = gather(ray, self._patches)
                    self._entries = {}
                    for patch in self.patches():
                        self._enter(patch, self._conditions)
                    self._installed = True
            finally:
                self._installing = False
            self._announce()
            imported = self._watch()
        self._attach(imported)
        self._report()

    def uninstall(self) -> None:
        """Undo every change, and attach nothing until the next `install`.

        If Ray was not imported yet, this keeps the bootstrap from attaching anything.
        """
        with self._install_lock:
            self._declined = True
            with self._lock:
                if not self._installed:
                    return
                self._installed = False
                applied, self._applied = self._applied, []
                for entry in self._entries.values():
                    if entry.state in _ALIVE:
                        entry.state, entry.why = State.OFF, "uninstalled"
        for problem in _undo(installation for _, installation in applied):
            NOTICES.warn(f"could not take back everything at uninstall: {problem}")
        self._report()

    def status(self) -> list[PatchStatus]:
        """Return the state of each patch in this process, by name; nothing before install."""
        with self._lock:
            return [
                PatchStatus(name, entry.patch.summary, entry.state, entry.why)
                for name, entry in sorted(self._entries.items())
            ]

    def _read_index(self) -> None:
        """Make the patches known: those of the index, and those of subpackages that it does not name."""
        packages = subpackages_with_a_patch()
        with self._lock:
            for patch in deferred.read(PATCHES, packages, self._patches.__getitem__):
                self._patches.setdefault(patch.name, patch)
        indexed = {package for package, _ in PATCHES}
        self._import(name for name in packages if name not in indexed)

    def discover(self) -> None:
        """Import the module `patch` of each subpackage, which registers its patches."""
        self._import(subpackages_with_a_patch())

    def _import(self, packages: Iterable[str]) -> None:
        for name in packages:
            try:
                importlib.import_module(f"mantaray.{name}.patch")
            except Exception as error:
                self._broken[name] = f"mantaray.{name}.patch cannot be imported ({error})"
                placeholder = Patch(name, "could not be loaded", None, None, (), {})
                with self._lock:
                    self._patches.setdefault(name, placeholder)

    def _enter(self, patch: Patch, conditions: Conditions) -> None:
        try:
            state, why = decide(patch, conditions)
        except ValueError as error:
            state, why = State.REFUSED, f"it states its releases wrongly ({error})"
        if patch.name in self._broken and state is not State.OFF:
            state, why = State.REFUSED, self._broken[patch.name]
        if patch.needs_native and state is State.ARMED:
            problem = native_module.quick_problem()
            if problem is not None:
                state, why = State.REFUSED, problem
        entry = self._entries[patch.name] = _Entry(patch, state, why)
        if state is State.ARMED:
            entry.note_progress()

    def _announce(self) -> None:
        """Report the patches that are refused from the start, in one line if the reason is the same for
        all."""
        conditions = self._conditions
        if conditions is None or conditions.ray is None:
            # The program only asked whether there is a Ray.
            return
        if conditions.problem is not None:
            problem = conditions.problem
            NOTICES.warn(
                f"{problem.text}; nothing is patched and Ray runs as it came ({problem.hint})"
            )
            return
        for status in self.status():
            if status.state is State.REFUSED:
                _warn_refused(status.name, status.why)

    def _watch(self) -> list[str]:
        """Set a hook on each module to change; return the modules that are imported already."""
        with self._lock:
            wanted = {
                name
                for entry in self._entries.values()
                if entry.state in _ALIVE
                for name in entry.patch.installers
            }
            imported = sorted(name for name in wanted if name in sys.modules)
            new = sorted(wanted - self._watched - set(imported))
            self._watched.update(new)
        for name in new:
            when_imported(name, partial(self._imported, name))
        return imported

    def _attach(self, imported: Iterable[str]) -> None:
        for name in imported:
            # This waits for another thread that is importing the module.
            self._imported(name, importlib.import_module(name))

    def _imported(self, name: str, module: ModuleType) -> None:
        """Attach the patches that wait for a module; its import calls this."""
        with self._lock:
            due = [
                entry
                for entry in self._entries.values()
                if entry.state in _ALIVE
                and name in entry.patch.installers
                and name not in entry.started
            ]
            for entry in due:
                entry.started.add(name)
        for entry in due:
            self._apply(entry, name, module)
        if due:
            self._report()

    def _apply(self, entry: _Entry, name: str, module: ModuleType) -> None:
        """Check a patch and run one of its installers. Any failure refuses the whole patch."""
        installation = Installation()
        why = self._try_to_apply(entry, name, module, installation)
        with self._lock:
            # Another thread may have refused or uninstalled the patch meanwhile.
            if why is None and entry.state in _ALIVE:
                self._applied.append((entry, installation))
                entry.attached.append(name)
                entry.note_progress()
                return
        self._take_back(entry, why, [installation])

    def _take_back(
        self, entry: _Entry, why: str | None, unfinished: Iterable[Installation] = ()
    ) -> None:
        """Undo everything of a patch; refuse it if it is still alive and a reason is given."""
        with self._lock:
            alive = entry.state in _ALIVE
            earlier = [done for owner, done in self._applied if owner is entry]
            self._applied = [item for item in self._applied if item[0] is not entry]
            if alive and why is not None:
                entry.state, entry.why = State.REFUSED, why
        problems = _undo([*earlier, *unfinished])
        if problems:
            reason = why or "it was uninstalled"
            entry.why = f"{reason}; not all of it could be taken back: {problems[0]}"
        if alive and why is not None:
            _warn_refused(entry.patch.name, entry.why)

    def rely_on_native(self, name: str) -> bool:
        """Load the native module for a patch that is about to use it.

        If it does not load, the patch is undone and refused in this process. The caller must then
        do what Ray does without the patch.

        Args:
            name: the patch.

        Returns:
            Whether the module is loaded.
        """
        try:
            native_module.load()
        except native_module.NativeError as error:
            self.give_up(name, str(error))
            return False
        return True

    def give_up(self, name: str, why: str) -> None:
        """Undo a patch and refuse it in this process, because it met an error after it was attached.

        Args:
            name: the patch.
            why: the reason, in words.
        """
        with self._lock:
            entry = self._entries.get(name)
        if entry is not None and entry.state in _ALIVE:
            self._take_back(entry, why)
            self._report()

    def _try_to_apply(
        self, entry: _Entry, name: str, module: ModuleType, installation: Installation
    ) -> str | None:
        """Return why it failed, or None."""
        try:
            if not entry.attached:
                conflict = self._conflict(entry.patch)
                if conflict is not None:
                    return conflict
            entry.patch.installers[name](module, installation)
        except Exception as error:
            return f"it failed in {name} with {type(error).__name__}: {error}"
        return None

    def _conflict(self, patch: Patch) -> str | None:
        """Return why a patch does not fit the Ray that was imported, or None."""
        conditions = self._conditions
        assert conditions is not None and conditions.ray is not None, "decided at install"
        assert conditions.known is not None, "an unknown Ray is refused at install"
        sources = versions.InstalledSources(Path(sys.modules["ray"].__path__[0]))
        return checks.conflicts(patch, conditions.ray.version, conditions.known, sources)

    def _report(self) -> None:
        conditions = self._conditions
        with self._report_lock:
            try:
                directory = settings.REPORT_DIR.read()
                if directory is not None:
                    from mantaray.overlay.report import write_report

                    ray = conditions.ray if conditions else None
                    write_report(directory, ray.version if ray else None, self.status())
            except SettingError:
                # It was reported already, because a bad setting is a condition of its own.
                return
            except OSError as error:
                NOTICES.warn(f"cannot write a report ({error}); unset or correct {_REPORT_DIR}")


_REPORT_DIR = settings.REPORT_DIR.name


def _undo(installations: Iterable[Installation]) -> list[str]:
    return [problem for each in reversed(list(installations)) for problem in each.undo()]


def _warn_refused(name: str, why: str) -> None:
    NOTICES.warn(f"{name} is not attached: {why}; Ray runs as it came (see `mantaray doctor`)")


def subpackages_with_a_patch() -> list[str]:
    """Return the subpackages of mantaray that have a module `patch`, by looking at directories."""
    found = {
        entry.name
        for root in mantaray.__path__
        for entry in os.scandir(root)
        if os.path.exists(os.path.join(root, entry.name, "patch.py"))
    }
    # The overlay's own module of this name defines what a patch is and contains none.
    return sorted(found - {"overlay"})


OVERLAY = Overlay()
attach = OVERLAY.attach
register = OVERLAY.register
install = OVERLAY.install
uninstall = OVERLAY.uninstall
attaches_early = OVERLAY.attaches_early
give_up = OVERLAY.give_up
rely_on_native = OVERLAY.rely_on_native
status = OVERLAY.status
