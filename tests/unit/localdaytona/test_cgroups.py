"""Which control groups may be used, tried on trees that look like those of real machines."""

from pathlib import Path

import pytest

from fleet_rlm_jupyter.localdaytona.cgroups import Delegation, delegation, enter
from fleet_rlm_jupyter.localdaytona.plan import ProcessLimits, SandboxPlan


class Kernel:
    """Makes the files of a new group, as the kernel does, by watching where groups are made."""

    def __init__(self, patch: pytest.MonkeyPatch, *files: str) -> None:
        make, remove = Path.mkdir, Path.rmdir

        def mkdir(path: Path, *rest: object, **more: object) -> None:
            make(path, *rest, **more)  # type: ignore[arg-type]
            for name in files:
                (path / name).touch()

        def rmdir(path: Path) -> None:
            for file in path.iterdir():
                file.unlink()
            remove(path)

        patch.setattr(Path, "mkdir", mkdir)
        patch.setattr(Path, "rmdir", rmdir)


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own"
    file.write_text(text)
    return file


def test_the_first_version_gives_each_limit_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("memory/user/me", "pids"):
        (tmp_path / "cgroup" / name).mkdir(parents=True)
    Kernel(monkeypatch, "memory.limit_in_bytes", "pids.max")
    found = delegation(tmp_path / "cgroup", own(tmp_path, "4:memory:/user/me\n3:pids:/elsewhere\n2:cpu:/\n"))
    assert found.limits == "memory and pids per sandbox"
    memory, pids = f"{tmp_path}/cgroup/memory/user/me", f"{tmp_path}/cgroup/pids"
    assert found.parents == (("memory", memory), ("pids", pids))
    base = "/tmp/fleet-localdaytona-x"
    assert found.groups(base, "id", {"memory"}) == (f"{memory}/fleet-localdaytona-x.id",)
    assert found.groups(base, "id", {"memory", "pids"})[1] == f"{pids}/fleet-localdaytona-x.id"
    assert found.groups(base, "id", set()) == ()


def test_the_second_version_is_used_where_the_parent_enables_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "cgroup"
    (top / "app.slice" / "shell.scope").mkdir(parents=True)
    (top / "cgroup.controllers").write_text("cpu memory pids")
    (top / "app.slice" / "cgroup.subtree_control").write_text("memory pids")
    (top / "app.slice" / "shell.scope" / "cgroup.subtree_control").write_text("")
    Kernel(monkeypatch, "memory.max", "pids.max")
    found = delegation(top, own(tmp_path, "0::/app.slice/shell.scope\n"))
    folder = f"{top}/app.slice"
    assert found == Delegation((("memory", folder), ("pids", folder)), "memory and pids per sandbox")
    assert found.groups("/tmp/b", "id", {"memory", "pids"}) == (f"{folder}/b.id",)


@pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/\n0::/x\n"])
def test_nothing_is_used_where_nothing_is_delegated(tmp_path: Path, text: str) -> None:
    (tmp_path / "cgroup").mkdir()
    found = delegation(tmp_path / "cgroup", own(tmp_path, text))
    assert found.parents == ()
    assert found.limits.startswith("per process")


def test_without_the_list_of_own_groups_nothing_is_used(tmp_path: Path) -> None:
    assert delegation(tmp_path, tmp_path / "absent").parents == ()


def test_a_sandbox_writes_its_limits_before_it_enters(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    for name in ("memory.max", "pids.max", "cgroup.procs"):
        (group / name).touch()
    plan = SandboxPlan("i", "L3", "/f", "/s", None, limits=ProcessLimits(memory_mb=100), groups=(str(group),))
    enter(plan)
    assert (group / "memory.max").read_text() == str(164 << 20)
    assert (group / "pids.max").read_text() == "512"
    assert (group / "cgroup.procs").read_text() == "0"
    assert not (group / "memory.limit_in_bytes").exists()
