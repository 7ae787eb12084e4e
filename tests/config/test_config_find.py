"""The first file that is there counts, and reading one fails in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollamux.config import source as source_module
from ollamux.config.find import SYSTEM_FILE, find_config, here
from ollamux.config.load import ConfigInvalid, read_config
from ollamux.config.source import first_open_port, read_source
from ollamux.domain.errors import ConfigError, DeniedError, Exit, NotFoundError

ONE = b"version = 1\n[instances.gpu0]\ngpus = [0]\nport = 11435\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder and a current folder with a configuration everywhere."""
    for place in ("here/ollamux.toml", "xdg/ollamux/config.toml", "home/.config/ollamux/config.toml", "own.toml"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(ONE)
    return tmp_path


def test_first_hit_wins(home: Path) -> None:
    here, own = home / "here", home / "own.toml"
    env = {"OLLAMUX_CONFIG": str(own), "XDG_CONFIG_HOME": str(home / "xdg"), "HOME": str(home / "home")}
    other = home / "xdg/ollamux/config.toml"
    assert find_config(str(other), env, here).path == other
    assert find_config(None, env, here).path == own
    assert find_config(None, env, here).why == "$OLLAMUX_CONFIG"
    del env["OLLAMUX_CONFIG"]
    found = find_config(None, env, here)
    assert (found.path, found.shown) == (here / "ollamux.toml", "ollamux.toml")
    (here / "ollamux.toml").unlink()
    found = find_config(None, env, here)
    assert found.path == other
    assert [place.state for place in found.looked] == ["not there", "found"]
    env["XDG_CONFIG_HOME"] = "relative"
    assert find_config(None, env, here).path == home / "home/.config/ollamux/config.toml"


def test_C1_nothing_anywhere_lists_where_we_looked(tmp_path: Path) -> None:
    found = find_config(None, {"HOME": str(tmp_path), "OLLAMUX_CONFIG": ""}, tmp_path)
    if found.path == SYSTEM_FILE:
        pytest.skip("this machine has a configuration for all users")
    assert [place.path for place in found.looked] == [
        tmp_path / "ollamux.toml",
        tmp_path / ".config/ollamux/config.toml",
        SYSTEM_FILE,
    ]
    with pytest.raises(NotFoundError) as caught:
        found.required()
    assert all(str(place.path) in caught.value.message for place in found.looked)
    assert caught.value.exit_code is Exit.NOT_FOUND
    assert "ollamux init" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["nosuch.toml", "", "a\0b", "own.toml/below"])
def test_C1_a_file_asked_for_by_name_has_to_be_there(home: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="--config"):
        find_config(name, {}, home)


def test_a_name_may_be_relative_or_begin_at_home(home: Path) -> None:
    assert find_config("../own.toml", {}, home / "here").path == home / "own.toml"
    assert find_config(None, {"OLLAMUX_CONFIG": "~/own.toml", "HOME": str(home)}, home).path == home / "own.toml"


def test_without_home_the_password_file_is_asked(tmp_path: Path) -> None:
    looked = find_config(None, {}, tmp_path).looked
    assert looked[0].path == tmp_path / "ollamux.toml"
    assert all(place.path.is_absolute() for place in looked)


def test_a_dangling_link_is_told_and_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "ollamux.toml").symlink_to("gone.toml")
    path = find_config(None, {"HOME": str(tmp_path)}, tmp_path).required()
    with pytest.raises(NotFoundError, match="is a link to nothing"):
        read_source(path)


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (source_module.LARGEST_FILE + 1))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="is a folder"):
        read_source(tmp_path)
    with pytest.raises(ConfigError, match="not an ordinary file"):
        read_source(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_source(tmp_path / "large")
    with pytest.raises(NotFoundError, match="is not there"):
        read_source(tmp_path / "gone")
    with pytest.raises(NotFoundError, match="cannot be opened"):
        read_source(tmp_path / "loop")

    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(DeniedError) as caught:
        read_source(tmp_path / "any")
    assert caught.value.exit_code is Exit.PERMISSION


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is that careful")
@pytest.mark.parametrize(
    ("name", "mode", "owner", "refused"),
    [
        ("dir/file", 0o644, 0, False),
        ("dir/file", 0o666, 0, True),
        ("dir/file", 0o664, 0, False),  # the group is root's own
        ("dir/file", 0o600, 1234, True),
        ("dir", 0o777, 0, True),
        ("dir", 0o1777, 0, False),  # sticky: nobody can swap a file of root
        ("dir", 0o755, 1234, True),
        ("", 0o777, 0, True),
    ],
)
def test_C21_S13_root_uses_only_what_nobody_else_could_write(
    tmp_path: Path, name: str, mode: int, owner: int, refused: bool
) -> None:
    base = tmp_path / "base"
    (base / "dir").mkdir(parents=True)
    (base / "dir/file").write_bytes(ONE)
    changed = base / name
    os.chown(changed, owner, -1)
    changed.chmod(mode)
    link = base / "link"
    if changed != base:
        link.symlink_to("dir/file")
    for path in [base / "dir/file", *([link] if changed != base else [])]:
        if refused:
            with pytest.raises(DeniedError, match="can be written by"):
                read_source(path)
        else:
            assert read_source(path) == ONE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is that careful")
def test_C21_S13_root_refuses_a_file_of_a_foreign_group(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(ONE)
    os.chown(path, 0, 1234)
    path.chmod(0o664)
    with pytest.raises(DeniedError, match="group 1234"):
        read_source(path)


def test_read_config_gives_bytes_and_fleet(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(ONE)
    assert read_config(path)[0] == ONE
    assert read_config(path)[1].instances[0].name == "gpu0"
    path.write_bytes(b"version = 2\n")
    with pytest.raises(ConfigInvalid) as caught:
        read_config(path, shown="mine")
    assert caught.value.message.startswith("mine")


def test_C8_the_lowest_port_is_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert 1 <= first_open_port() <= 65535
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert first_open_port() == 1


def test_a_current_folder_that_was_deleted_holds_no_file_and_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    found = find_config(None, {"HOME": str(tmp_path)}, here())

    assert found.path is None
    assert "not there" in {place.state for place in found.looked}
