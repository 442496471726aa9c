"""Tests of the validation of config.json: errors name the path and the expected value."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from oci_configs import changed, minimal, mutations, outcome

from usernsctl.errors import BundleError
from usernsctl.gvisor.oci import parse, serialise, validate

ID = "should be a whole number from 0 to 4294967295"
HOSTNAME = "should be a string of at most 64 bytes in UTF-8, without NUL characters"
TEXT = "should be a string in UTF-8, without NUL characters"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("process", [], "$.process: found an empty array; should be an object"),
        ("process.args", None, "$.process.args: found null; should be an array that starts"),
        ("process.args", [], "$.process.args: found an empty array; should be an array that"),
        ("process.args", "sh", '$.process.args: found "sh"; should be an array'),
        ("process.args", ["a", 1], f"$.process.args[1]: found 1; {TEXT}"),
        ("process.args", ["a\0"], f'$.process.args[0]: found "a\\u0000"; {TEXT}'),
        ("process.args", ["a", "\udc80"], f'$.process.args[1]: found "\\udc80"; {TEXT}'),
        ("process.cwd", "work", '$.process.cwd: found "work"; should be an absolute path'),
        ("process.cwd", "", '$.process.cwd: found ""; should be an absolute path'),
        ("process.env", {"A": "b"}, "$.process.env: found an object; should be an array"),
        ("process.env", ["A=b", "C"], "$.process.env[1]: found a string; should be NAME=VALUE"),
        ("process.env", ["=b"], "$.process.env[0]: found a string; should be NAME=VALUE"),
        ("process.env", ["A=\0"], "$.process.env[0]: found a string; should be NAME=VALUE"),
        ("process.user", 0, "$.process.user: found 0; should be an object"),
        ("process.user.uid", "0", f'$.process.user.uid: found "0"; {ID}'),
        ("process.user.uid", 2**32, f"$.process.user.uid: found 4294967296; {ID}"),
        ("process.user.gid", -1, f"$.process.user.gid: found -1; {ID}"),
        ("process.user.uid", True, f"$.process.user.uid: found true; {ID}"),
        ("process.user.uid", Decimal("1.0"), f"$.process.user.uid: found 1.0; {ID}"),
        ("process.user.additionalGids", [1, "x"], f'additionalGids[1]: found "x"; {ID}'),
        ("process.terminal", "yes", '$.process.terminal: found "yes"; should be true or false'),
        ("process.rlimits", [{"type": "NOFILE"}], 'rlimits[0].type: found "NOFILE"; should be a'),
        (
            "process.rlimits",
            [{"type": "RLIMIT_CPU", "soft": 1}],
            "$.process.rlimits[0].hard: missing; should be a whole number, 0 or more",
        ),
        ("process.capabilities", {"bounding": ["SYS_ADMIN"]}, "$.process.capabilities.bounding[0]"),
        ("root.path", "", '$.root.path: found ""; should be a string, not empty'),
        ("root.readonly", 1, "$.root.readonly: found 1; should be true or false"),
        ("root", None, "$.root: found null; should be an object"),
        ("mounts", {}, "$.mounts: found an empty object; should be an array"),
        ("mounts", [{"type": "proc"}], "$.mounts[0].destination: missing; should be an absolute"),
        ("mounts", [{"destination": "x"}], '$.mounts[0].destination: found "x"; should be an abs'),
        ("mounts", [{"destination": "/x", "options": "ro"}], '$.mounts[0].options: found "ro"'),
        ("linux", True, "$.linux: found true; should be an object"),
        ("linux.namespaces", ["user"], '$.linux.namespaces[0]: found "user"; should be an object'),
        ("linux.namespaces", [{"path": "/x"}], "$.linux.namespaces[0].type: missing"),
        (
            "linux.uidMappings",
            [{"containerID": 0, "hostID": 0, "size": 0}],
            "$.linux.uidMappings[0].size: found 0; should be a whole number from 1",
        ),
        ("linux.gidMappings", [{"hostID": 0, "size": 1}], "gidMappings[0].containerID: missing"),
        ("annotations", {"a.b": 1}, f'$.annotations["a.b"]: found 1; {TEXT}'),
        ("hostname", 7, f"$.hostname: found 7; {HOSTNAME}"),
        ("hostname", "a\0", f'$.hostname: found "a\\u0000"; {HOSTNAME}'),
        ("hostname", "h" * 65, f'$.hostname: found "{"h" * 58}…; {HOSTNAME}'),
        ("hostname", "é" * 33, f"…; {HOSTNAME}"),
        ("ociVersion", "", '$.ociVersion: found ""'),
    ],
)
def test_invalid_value_is_reported_with_its_path(path: str, value: object, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        validate(changed(minimal(), path, value), filename="config.json")
    assert message in caught.value.reason
    assert caught.value.reason.startswith("config.json: $")


@pytest.mark.parametrize("key", ["process", "root"])
def test_missing_key_is_reported(key: str) -> None:
    config = minimal()
    del config[key]
    with pytest.raises(BundleError, match=rf"\$\.{key}: missing; should be an object$"):
        validate(config)


@pytest.mark.parametrize(
    ("path", "where", "right"),
    [
        ("Process", "$.Process", "process"),
        ("process.CWD", "$.process.CWD", "cwd"),
        ("linux.uidmappings", "$.linux.uidmappings", "uidMappings"),
        ("\u017folaris", '$["\\u017folaris"]', "solaris"),
        ("HOOKS", "$.HOOKS", "hooks"),
        ("hoo\u212as", '$["hoo\\u212as"]', "hooks"),
        ("hooks.preStart", "$.hooks.preStart", "prestart"),
        ("hooks.createRuntIME", "$.hooks.createRuntIME", "createRuntime"),
        ("linux.NetDevices", "$.linux.NetDevices", "netDevices"),
        ("linux.seccomp.LISTENERPATH", "$.linux.seccomp.LISTENERPATH", "listenerPath"),
        ("process.execCpuAffinity", "$.process.execCpuAffinity", "execCPUAffinity"),
        ("Annotations", "$.Annotations", "annotations"),
        ("root.Path", "$.root.Path", "path"),
        ("ho\u017ftname", '$["ho\\u017ftname"]', "hostname"),
    ],
)
def test_keys_in_another_case_are_refused(path: str, where: str, right: str) -> None:
    config = changed(minimal(), path, "x")
    with pytest.raises(BundleError) as caught:
        validate(config)
    assert caught.value.reason == f"{where}: runtimes read this key as {right!r}; write {right!r}"


@pytest.mark.parametrize(
    "path", ["mounts", "linux", "hostname", "process.user", "process.env", "linux.namespaces"]
)
def test_null_counts_as_absent(path: str) -> None:
    assert validate(changed(minimal(), path, None)).process.args == ["/bin/true"]


@pytest.mark.parametrize("name", ["", "h" * 64, "é" * 32])
def test_the_kernel_limits_the_hostname_in_bytes(name: str) -> None:
    assert validate(changed(minimal(), "hostname", name)).hostname == name


def test_unknown_keys_may_have_any_value() -> None:
    config = minimal() | {"vendor": {"process": []}, "vm": 7}
    assert validate(config).root.path == "rootfs"


@given(mutations)
@settings(deadline=None)
def test_any_mutation_is_valid_or_raises_bundleerror(config: dict[str, Any]) -> None:
    result = outcome(validate, config)
    if isinstance(result, BundleError):
        assert result.reason.startswith("$")
    else:
        assert validate(parse(serialise(config))) == result
