"""Running a command in gVisor."""

from usernsctl.sandbox.launch import run
from usernsctl.sandbox.request import Bind, Request

__all__ = ["Bind", "Request", "run"]
