"""Saved templates as objects in Ray's object store."""

from __future__ import annotations

import os
import pickle
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Self

from usernsctl._system.descriptors import open_owned
from usernsctl._system.records import RECORD, Directory
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.gvisor.sandbox.host_namespace import HostBase
from usernsctl.gvisor.template.image import damaged, wrong_kind
from usernsctl.gvisor.template.store import read, use
from usernsctl.gvisor.template.template import Template


class TemplateFiles:
    """The files of a saved template, as an object that ``ray.put`` stores without copying them.

    All actors on a node share the node's single copy of the object in memory.

    :param files: the content of each file, keyed by the file's name.
    """

    def __init__(self, files: dict[str, Any]) -> None:
        self._files = files

    @classmethod
    def of(cls, template: Template) -> Self:
        """Return the files of an open template.

        :raises ValueError: the template is closed.
        :raises UsernsError: as :meth:`usernsctl.Template.save` does.
        """
        with tempfile.TemporaryDirectory(prefix="usernsctl-template-") as directory:
            saved = Path(directory, "template")
            template.save(saved)
            return cls.read(saved)

    @classmethod
    def read(cls, directory: StrOrBytesPath) -> Self:
        """Read the files of a template that :meth:`usernsctl.Template.save` wrote.

        :param directory: the path of the directory.
        :raises RunscError: there is no template (cause ``"no-such-template"``), the template is
            incomplete (``"template-damaged"``), other users may have modified the template
            (``"template-untrusted"``), or the template is a :class:`usernsctl.PythonTemplate`,
            whose sandboxes can't run the commands of a pool.
        """
        return cls(use(os.path.abspath(os.fsdecode(directory)), _read_files))

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(len(memoryview(content)) for content in self._files.values())

    def load(self, host: HostBase) -> Template:
        """Load the template into a host, and return it.

        :raises RunscError: as :meth:`usernsctl.Template.load` does.
        :raises ValueError: the name of a file is a path, not a plain name.
        """
        with tempfile.TemporaryDirectory(prefix="usernsctl-template-") as directory:
            for name, content in self._files.items():
                if name != os.path.basename(name) or name in ("", ".", ".."):
                    raise ValueError(f"the template has a file named {name!r}")
                file = Path(directory, name)
                file.touch()
                # With the umask 002, the group could write the file, so Template.load() would
                # reject it.
                file.chmod(0o600)
                file.write_bytes(memoryview(content))
            return Template.load(directory, host=host)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle the contents as buffers: Ray stores buffers outside of the pickle, but would copy
        # bytes objects into the pickle.
        return type(self), ({name: pickle.PickleBuffer(f) for name, f in self._files.items()},)


def _read_files(directory: Directory) -> dict[str, bytes]:
    """Return a dict that maps the names of a saved template's files to their contents."""
    record = read(directory)
    if record.kind == "python":
        raise wrong_kind(directory.path, record.kind)
    return {name: _read_file(directory, name) for name in (RECORD, *(record.images or ()))}


def _read_file(directory: Directory, name: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open_owned(partial(os.open, dir_fd=directory.fd), name, flags) as file:
            return file.readall()
    except OSError as error:
        raise damaged(directory.path, f"{name}: {error.strerror}") from error
