"""How far a stage has come: the five states of a stage, and the files that say which one it is in.

No other module knows these files. They lie in the stage's folder, beside its outputs:

    STAGE.started.json    what it was begun with, until it is done: a killed stage goes on with its shards,
                          never with another recipe's
    STAGE.manifest.json   what it was done with and what it wrote; written last, so it means "done"
    STAGE.failed.json     why its last attempt failed. A stage also fails before it has begun and after it was
                          done, so this is a file of its own
    .STAGE.before/        manifest and outputs for another recipe, until those for the present one are done

Folders named after what a stage depends on would need no setting aside, but users and LLaMA-Factory's
`dataset_dir` point at names such as `round-1/model`, and such a name could no longer be given.
"""

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from dice.errors import BadInput, Unreadable
from dice.run import files, manifests
from dice.run.manifests import Manifest


class State(Enum):
    """The states of a stage."""

    NEVER_BEGUN = "never begun"
    BEGUN = "begun"  # and at work, or interrupted
    FAILED = "failed"
    DONE = "done"
    DAMAGED = "damaged"  # it was done, but its manifest or one of its outputs is not as it was written


@dataclass(frozen=True)
class Found:
    """What the files of a stage say."""

    state: State
    manifest: Manifest | None = None  # of a stage that is done, or damaged in its outputs alone
    basis: dict[str, Any] | None = None  # what it was done with, or else begun with
    damage: dict[str, str] = field(default_factory=dict)  # output -> what happened to it
    unreadable: str = ""  # what is wrong with its manifest
    error: str = ""  # why its last attempt failed
    begun_at: float = 0.0  # seconds since 1970; 0 for a stage that is not begun, or done

    @property
    def was_done(self) -> bool:
        """Whether it is done, damaged since or not."""
        return self.state in (State.DONE, State.DAMAGED)

    @property
    def reasons(self) -> list[str]:
        """The damage in words."""
        return [f"{name} {what}" for name, what in self.damage.items()]


class StageFiles:
    """The files of a stage; `outputs` and `working` are what dice.run.stage.Stage calls so."""

    def __init__(
        self, folder: Path, stage: str, outputs: tuple[str, ...] = (), working: tuple[str, ...] = ()
    ) -> None:
        self.folder, self.outputs, self.working = folder, outputs, working
        self.manifest_path = folder / f"{stage}.manifest.json"
        self._begun = folder / f"{stage}.started.json"
        self._failed = folder / f"{stage}.failed.json"
        self._before = folder / f".{stage}.before"

    def manifest(self) -> Manifest | None:
        """The manifest, or None for a stage that is not done. Raises BadInput where it was changed."""
        return manifests.read(self.manifest_path)

    def state(self, thorough: bool = False) -> Found:
        """Which state the stage is in. Changed outputs are noticed if `thorough`, missing ones always.

        Raises Unreadable where one of its files can't be read.
        """
        failed, basis = files.read_json(self._failed), files.read_json(self._begun)
        error = str((failed or {}).get("error", ""))
        try:
            manifest = self.manifest()
        except Unreadable:  # which is no damage, and --force must make nothing anew for it
            raise
        except BadInput as wrong:
            return Found(State.DAMAGED, basis=basis, unreadable=str(wrong), error=error)
        if manifest:
            damage = manifests.damage(self.folder, manifest.outputs, thorough)
            state = State.DAMAGED if damage else State.DONE
            return Found(state, manifest, manifest.basis, damage, error=error)
        begun_at = 0.0
        with contextlib.suppress(OSError):  # not begun, or done at this moment
            begun_at = self._begun.stat().st_mtime
        state = State.FAILED if failed is not None else State.BEGUN if begun_at else State.NEVER_BEGUN
        return Found(state, basis=basis, error=error, begun_at=begun_at)

    def begin(self, basis: dict[str, Any]) -> bool:
        """Make room for a stage's outputs. Returns whether it goes on with those of an earlier attempt."""
        resumed = files.read_json(self._begun) == basis
        if not resumed:
            self._remove(*self.outputs, *self.working)
        files.remove_leftovers(self.folder)
        files.write_json(self._begun, basis)
        self._remove(self.manifest_path, self._failed)
        return resumed

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest: the stage is done."""
        manifests.write(self.manifest_path, manifest)
        self.tidy()

    def tidy(self) -> None:
        """Remove what is of no use beside a manifest that holds; nothing of the folder's other stages."""
        for output in self.outputs:
            files.remove_seals(self.folder / output)
        self._remove(self._begun, self._failed, *self.working, self._before)

    def fail(self, error: str) -> None:
        """Leave word of why an attempt failed."""
        files.write_json(self._failed, {"error": error})

    def reopen(self, manifest: Manifest, damage: Collection[str]) -> None:
        """Prepare to `begin` again a stage that was done: what is not damaged is gone on with."""
        files.write_json(self._begun, manifest.basis)
        self._remove(*damage)
        for name, digest in manifest.outputs.items():
            if name not in damage and "/" in name and name.endswith(".jsonl"):
                files.seal(self.folder / name, digest)

    def take_over(self, source: Path, manifest: Manifest) -> None:
        """Link the outputs of the same stage in another folder: the stage is done."""
        files.write_json(self._begun, manifest.basis)  # where this is killed, the stage makes them itself
        for name in manifest.outputs:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._remove(name)
            files.link(source / name, self.folder / name)
        self.finish(msgspec.structs.replace(manifest, shared_from=str(source)))

    def begin_with(self, basis: dict[str, Any], shards: dict[str, tuple[Path, str]]) -> None:
        """Begin a stage with shards of another folder: name here -> (file, its digest)."""
        for name, (source, digest) in shards.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._remove(name)
            files.link(source, self.folder / name)
            files.seal(self.folder / name, digest)
        files.write_json(self._begun, basis)  # last: where this is killed, the stage begins anew

    def set_aside(self) -> None:
        """Move manifest and outputs out of the way of others, until these are done.

        The manifest goes first: where this is killed, `restore` knows what belongs together.
        """
        self._remove(self._before)  # what these outputs had replaced
        _move(self.folder, self._before, (self.manifest_path.name, *self.outputs))

    def aside(self) -> Manifest | None:
        """The manifest of what was set aside for a recipe that came to nothing, if anything was."""
        if not self.manifest_path.exists():
            with contextlib.suppress(BadInput):  # nothing to go back to
                return manifests.read(self._before / self.manifest_path.name)
        return None

    def restore(self, basis: dict[str, Any]) -> None:
        """Bring back what was set aside for a recipe that came to nothing, where it was done with `basis`."""
        manifest = self.aside()
        if not manifest:
            return
        if manifest.basis == basis:
            self._remove(self._begun)
            _move(self._before, self.folder, (*self.outputs, self.manifest_path.name))
            self._remove(self._before)
        elif not self._begun.exists():  # killed while it was set aside
            left = [name for name in self.outputs if not (self._before / name).exists()]
            _move(self.folder, self._before, left)

    def _remove(self, *names: str | Path) -> None:
        for name in names:
            files.remove(self.folder / name)


def _move(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            files.remove(target / name)
            (source / name).replace(target / name)
