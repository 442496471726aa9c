"""Saved templates as objects in Ray's object store."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, Self

from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.errors import RunscError
from usernsctl.gvisor.sandbox.host_namespace import HostBase
from usernsctl.gvisor.template.template import Template


class TemplateFiles:
    """The files of a saved template. ``ray.put`` puts them into the object store without a copy.

    A node that gets the object has it once in its memory, for all actors of the node.

    :param files: the content of each file, by its name.
    """

    def __init__(self, files: dict[str, Any]) -> None:
        self._files = files

    @classmethod
    def of(cls, template: Template) -> Self:
        """Return the files of a template.

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
        :raises RunscError: the directory can't be read, or has no template (cause
            ``"no-such-template"``).
        """
        path = Path(os.fsdecode(directory))
        try:
            files = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
        except OSError as error:
            raise RunscError(
                f"there is no template {path}: {error.strerror}",
                step="template",
                errno=error.errno or 0,
                filename=str(path),
                cause="no-such-template",
                remedy="name the directory that a template was saved in",
            ) from error
        return cls(files)

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(len(memoryview(content)) for content in self._files.values())

    def load(self, host: HostBase) -> Template:
        """Return the template, loaded into a host.

        :raises RunscError: as :meth:`usernsctl.Template.load` does.
        :raises ValueError: the name of a file is not a plain name.
        """
        with tempfile.TemporaryDirectory(prefix="usernsctl-template-") as directory:
            for name, content in self._files.items():
                if name != os.path.basename(name) or name in ("", ".", ".."):
                    raise ValueError(f"the template has a file named {name!r}")
                Path(directory, name).write_bytes(memoryview(content))
            return Template.load(directory, host=host)

    def __reduce__(self) -> tuple[Any, ...]:
        # Buffers, which Ray stores beside the pickled object: it copies bytes into it.
        return type(self), ({name: pickle.PickleBuffer(f) for name, f in self._files.items()},)
