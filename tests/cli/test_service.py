"""`ollamux service`: what it writes, what it refuses, and what it says where there is no systemd.

With a real manager: tests/process/test_systemd.py.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_rig import Place, is_plain_error

from ollamux.cli.service_unit import Origin, UnitPlan, exec_line, origin, quoted, unit_text
from ollamux.domain.spec import OnDeath

USAGE, CONFIG, NOT_FOUND, REFUSED, DENIED = 2, 4, 5, 7, 9
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
verified = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
NOBODY = "nobody"


def plan(**changes: object) -> UnitPlan:
    known: dict[str, object] = {
        "run_as": None,
        "command": ("/bin/true",),
        "config": "/etc/ollamux/config.toml",
        "environment": (("PATH", "/usr/bin:/bin"),),
        "on_death": OnDeath.KEEP,
        "stop_s": 35.0,
        "umask": 0o022,
        "systemd": None,
    }
    return UnitPlan(**(known | changes))  # type: ignore[arg-type]


def settings(text: str) -> dict[str, str]:
    """Return the settings of a unit, those that occur once."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


@pytest.fixture
def alone(place: Place) -> Place:
    """A place with a configuration, whose user has no manager to ask, whatever the machine has."""
    place.fake_ollama()
    place.config("a")
    (place.root / "login").mkdir(mode=0o700)
    place.env["XDG_RUNTIME_DIR"] = str(place.root / "login")
    return place


def unit_of(place: Place) -> Path:
    return place.root / "home/.config/systemd/user/ollamux.service"


def systemctl_that_agrees(place: Place) -> Path:
    """Stand in for systemctl: it writes down what it is asked, and the service is not running."""
    asked = place.root / "asked"
    path = place.root / "bin/systemctl"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\ncase "$*" in\n*--version*) echo "systemd 254 (254.1)";;\n'
        "*is-active*) exit 3;;\nesac\n"
    )
    path.chmod(0o755)
    return asked


# -- the text


def test_R80_R81_R83_the_unit_of_each_policy() -> None:
    keep, stop = (settings(unit_text(plan(on_death=policy))) for policy in (OnDeath.KEEP, OnDeath.STOP))

    assert (keep["KillMode"], stop["KillMode"]) == ("process", "mixed")
    assert keep["ExecStop"].startswith("-/") and keep["ExecStop"].endswith(" down -q")
    assert "ExecStop" not in stop
    for unit in (keep, stop):
        assert unit["ExecReload"].endswith(" reload --no-wait -q")
        assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryPreserve"]) == ("ollamux", "yes")
        assert unit["Type"] == "notify"
        assert unit["Restart"] == "on-failure"
        assert unit["OOMPolicy"] == "continue"
        assert unit["WatchdogSec"] == "30"
        assert float(unit["TimeoutStopSec"]) > 35
        assert unit["RestartPreventExitStatus"] == "2 4 6 7 9"
        assert unit["UMask"] == "0022"
        assert unit["WantedBy"] == "default.target"
        assert "User" not in unit


def test_the_unit_of_a_system_service_names_its_user_and_leaves_the_umask_to_the_machine() -> None:
    unit = settings(unit_text(plan(run_as="alice", umask=None)))

    assert (unit["User"], unit["WantedBy"]) == ("alice", "multi-user.target")
    assert "OLLAMUX_RUNTIME_DIR=%t/ollamux" in unit_text(plan(run_as="alice", umask=None))
    assert "nvidia-persistenced.service" in unit["After"]
    assert "UMask" not in unit


@pytest.mark.parametrize(("version", "known"), [(None, False), (252, False), (254, True), (257, True)])
def test_settings_are_written_only_where_the_version_knows_them(version: int | None, known: bool) -> None:
    unit = settings(unit_text(plan(systemd=version)))

    assert ("RestartSteps" in unit, "RestartMaxDelaySec" in unit) == (known, known)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("/plain/path-1_2.toml", "/plain/path-1_2.toml"),
        ("a b", '"a b"'),
        ("100%h", '"100%%h"'),
        ('say "x" \\', '"say \\"x\\" \\\\"'),
        ("é", '"é"'),
        ("line\nend\t", '"line\\x0aend\\x09"'),
        ("", '""'),
        ("a;b", '"a;b"'),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(text: str, written: str) -> None:
    assert quoted(text) == written


def test_a_dollar_is_a_variable_in_every_word_but_the_first() -> None:
    assert exec_line(["/a$b", "up", "$HOME"]) == "/a$b up $$HOME"


def test_who_has_written_a_unit_shows() -> None:
    text = unit_text(plan())

    assert origin(text) is Origin.OURS
    assert origin(text + "Nice=5\n") is Origin.EDITED
    assert origin(text.replace("WatchdogSec=30", "WatchdogSec=60")) is Origin.EDITED
    assert origin("[Service]\nExecStart=/usr/bin/ollamux up\n") is Origin.FOREIGN
    assert origin("") is Origin.FOREIGN


@verified
@pytest.mark.parametrize("run_as", [None, "daemon"])
@pytest.mark.parametrize("on_death", list(OnDeath))
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, run_as: str | None, on_death: OnDeath) -> None:
    program = tmp_path / "odd %h é $x" / "ollamux"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    changes = {"command": (str(program),), "config": str(tmp_path / "a %b é;.toml"), "environment": (("A", "%h é $x"),)}
    unit = tmp_path / "ollamux.service"
    unit.write_text(unit_text(plan(run_as=run_as, on_death=on_death, **changes)))
    (tmp_path / "login").mkdir(mode=0o700)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(["--user"] if run_as is None else []), str(unit)],
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "login"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    told = [line for line in done.stderr.splitlines() if "ollamux.service" in line]
    assert (done.returncode, told) == (0, []), done.stderr


# -- show


def test_show_prints_the_unit_wherever_one_is(alone: Place) -> None:
    alone.env["PATH"] = f"{alone.root}/bin"  # no systemctl at all
    text = alone.ok("service", "show", "--user").out

    assert origin(text) is Origin.OURS
    unit = settings(text)
    command = unit["ExecStart"].split()
    assert os.path.isabs(command[0]) and os.path.basename(command[0]) == "ollamux"
    assert command[1:] == ["up", "--config", str(alone.work / "ollamux.toml")]
    assert f"Environment=OLLAMUX_STATE_DIR={alone.state}\n" in text
    assert f"Environment=PATH={alone.root}/bin\n" in text
    assert not unit_of(alone).exists()


def test_the_time_to_stop_follows_the_configuration(alone: Place) -> None:
    alone.config("a", a="[instances.a.restart]\nstop_timeout = '2m'")

    assert int(settings(alone.ok("service", "show", "--user").out)["TimeoutStopSec"]) > 120 + 5 + 10


def test_the_policy_comes_from_the_configuration(alone: Place) -> None:
    alone.config("a", extra='[supervisor]\non_death = "stop"')

    assert settings(alone.ok("service", "show", "--user").out)["KillMode"] == "mixed"


def test_the_umask_of_the_user_is_kept(alone: Place) -> None:
    shown = alone.run("-c", 'umask 002; exec "$0" service show --user', alone.command, program="/bin/sh")

    assert settings(shown.out)["UMask"] == "0002"


def test_without_a_configuration_there_is_nothing_to_show(alone: Place) -> None:
    (alone.work / "ollamux.toml").unlink()
    if os.path.exists("/etc/ollamux/config.toml"):
        pytest.skip("this machine has a configuration of its own")

    assert alone.run("service", "show", "--user").code == NOT_FOUND


def test_a_path_that_systemd_cannot_take_is_refused(alone: Place) -> None:
    odd = os.fsdecode(os.fsencode(alone.work) + b"/\xff.toml")
    shutil.copy(alone.work / "ollamux.toml", odd)

    done = alone.run("service", "show", "--user", "--config", odd)

    assert done.code == REFUSED and is_plain_error(done.err) and "UTF-8" in done.err


# -- install


def test_without_systemd_cron_is_told_how(alone: Place) -> None:
    done = alone.run("service", "install", "--user")

    assert done.code == NOT_FOUND
    lines = done.err.splitlines()
    config = alone.work / "ollamux.toml"
    assert re.fullmatch(rf"  @reboot      /\S+/ollamux up --ensure -q --config {config}", lines[2])
    assert lines[3].startswith("  */5 * * * *  /")
    assert not unit_of(alone).exists()


def test_a_percent_does_not_end_the_line_of_cron(alone: Place) -> None:
    config = alone.work / "a %.toml"
    shutil.copy(alone.work / "ollamux.toml", config)

    done = alone.run("service", "install", "--user", "--config", str(config))

    assert f"--config '{alone.work}/a \\%.toml'" in done.err


def test_what_install_writes_is_what_show_shows(alone: Place) -> None:
    asked = systemctl_that_agrees(alone)

    done = alone.ok("service", "install", "--user")

    assert unit_of(alone).read_text() == alone.ok("service", "show", "--user").out
    assert "RestartSteps=5" in unit_of(alone).read_text()
    words = [line for line in asked.read_text().splitlines() if "--version" not in line]
    assert words[-2:] == ["--user daemon-reload", "--user enable ollamux.service"]
    assert "systemctl --user start ollamux" in done.out
    if not os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.getuid()).pw_name}"):
        assert "loginctl enable-linger" in done.out
    assert alone.ok("service", "install", "--user").out.startswith(f"{unit_of(alone)} was there already")


@pytest.mark.parametrize("text", ["edited", "foreign"])
def test_a_unit_of_somebody_else_is_left_alone_unless_told(alone: Place, text: str) -> None:
    systemctl_that_agrees(alone)
    alone.ok("service", "install", "--user")
    ours = unit_of(alone).read_text()
    theirs = ours.replace("WatchdogSec=30", "WatchdogSec=99") if text == "edited" else "[Service]\nExecStart=/bin/x\n"
    unit_of(alone).write_text(theirs)

    for words in (("install",), ("install", "--now"), ("uninstall",)):
        done = alone.run("service", *words, "--user")
        assert done.code == REFUSED and is_plain_error(done.err) and "--force" in done.err, done
        assert unit_of(alone).read_text() == theirs

    alone.ok("service", "install", "--user", "--force")
    assert unit_of(alone).read_text() == ours
    unit_of(alone).write_text(theirs)
    alone.ok("service", "uninstall", "--user", "--force")
    assert not unit_of(alone).exists()


def test_a_service_that_could_not_start_is_not_installed(alone: Place) -> None:
    systemctl_that_agrees(alone)
    (alone.root / "bin/ollama").unlink()
    alone.env["PATH"] = f"{alone.root}/bin:{os.path.dirname(shutil.which('env') or '')}"
    if shutil.which("ollama", path=alone.env["PATH"]):
        pytest.skip("an ollama is installed beside the system's programs")
    assert alone.run("service", "install", "--user").code == NOT_FOUND

    (alone.work / "ollamux.toml").write_text("version = 1\nprot = 3\n")
    assert alone.run("service", "install", "--user").code == CONFIG
    assert not unit_of(alone).exists()


def test_what_systemctl_refuses_is_passed_on(alone: Place) -> None:
    systemctl_that_agrees(alone)
    path = alone.root / "bin/systemctl"
    path.write_text(path.read_text().replace("esac", '*enable*) echo "Failed: no"; exit 1;;\nesac'))

    done = alone.run("service", "install", "--user")

    assert done.code == 1 and is_plain_error(done.err)
    assert "systemctl --user enable ollamux.service failed: Failed: no" in done.err


def test_run_as_is_for_system_services(alone: Place) -> None:
    done = alone.run("service", "install", "--user", "--run-as", "daemon")
    assert done.code == USAGE and is_plain_error(done.err)
    assert alone.run("service", "show", "--system", "--run-as", "no-such-user").code == NOT_FOUND


@root_only
def test_root_has_to_say_whose_service_it_is(alone: Place) -> None:
    for words in (("install",), ("show",), ("install", "--system")):
        done = alone.run("service", *words, env={"SUDO_USER": "alice"})
        assert done.code == USAGE and is_plain_error(done.err)
        assert "--run-as alice" in done.err


@root_only
def test_files_are_looked_at_with_the_rights_of_the_user_of_the_service(alone: Place) -> None:
    """Root itself would refuse a file that somebody else may write."""
    os.chmod(alone.root, 0o755)
    config = alone.work / "ollamux.toml"
    os.chown(config, pwd.getpwnam(NOBODY).pw_uid, 0)
    words = ("service", "show", "--system", "--config", str(config))

    shown = alone.ok(*words, "--run-as", NOBODY)
    assert f"User={NOBODY}\n" in shown.out
    assert alone.run(*words, "--run-as", "root").code == DENIED

    config.chmod(0o600)
    os.chown(config, 0, 0)
    assert alone.run(*words, "--run-as", NOBODY).code == DENIED


@root_only
def test_root_runs_no_program_that_somebody_else_may_change(alone: Place) -> None:
    asked = systemctl_that_agrees(alone)
    theirs = alone.root / "theirs"
    theirs.mkdir()
    os.chmod(alone.root, 0o755)
    program = theirs / "ollamux"
    program.symlink_to(alone.command)
    os.chown(theirs, pwd.getpwnam(NOBODY).pw_uid, 0)

    done = alone.run("service", "install", "--system", "--run-as", "root", program=str(program))

    assert done.code == DENIED and is_plain_error(done.err) and str(theirs) in done.err, done
    assert "enable" not in asked.read_text()


@root_only
def test_a_system_service_is_not_installed_for_a_user_who_could_not_run_it(alone: Place) -> None:
    systemctl_that_agrees(alone)
    os.chmod(alone.root, 0o755)
    os.chmod(alone.root / "home", 0o700)

    done = alone.run("service", "install", "--system", "--run-as", NOBODY)

    assert done.code == DENIED and is_plain_error(done.err)
    assert NOBODY in done.err
    assert not Path("/etc/systemd/system/ollamux.service").exists()


def test_who_is_not_root_is_told_the_whole_command(alone: Place) -> None:
    """In a user namespace where we are somebody else, so that this test needs no other user's access to the files."""
    other = pwd.getpwnam(NOBODY).pw_uid if os.getuid() == 0 else os.getuid()
    name = pwd.getpwuid(other).pw_name
    become = ["unshare", "--user", f"--map-user={other}", f"--map-group={other}"]
    if subprocess.run([*become, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs user namespaces")

    shown = alone.run("service", "install", "--system", program=[*become, alone.command])

    assert shown.code == DENIED and is_plain_error(shown.err), shown
    expected = rf"sudo /\S+ service install --system --run-as {name} --config {alone.work}/"
    assert re.search(expected, shown.err), shown.err
    assert alone.run("service", "install", program=[*become, alone.command]).code == NOT_FOUND  # its own, by default
