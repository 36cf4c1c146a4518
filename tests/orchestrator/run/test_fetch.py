"""`kdsweep fetch` trusts nothing that a login node sends; here a script stands for ssh."""

import io
import tarfile
from pathlib import Path

import pytest

from kd.errors import InputError, Unavailable
from orchestrator.run.fetch import fetch
from orchestrator.run.remote import Host

NAMES = ("points/a/result.json", "points/a/history.jsonl", "plan.json", "spaces/001.yaml", "points/b/log.txt")


@pytest.fixture
def sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Have the login node list these files and send this archive; where the files then come to lie."""

    def send(listing: bytes, archive: bytes = b"") -> Path:
        (tmp_path / "listing").write_bytes(listing)
        (tmp_path / "archive").write_bytes(archive)
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        lines = f"cat {tmp_path}/listing; read -r go; cat >{tmp_path}/asked; cat {tmp_path}/archive"
        ssh.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
        return tmp_path / "here" / "sweep"

    return send


def listed(*names: str, size: int = 9) -> bytes:
    return b"".join(f"{size} 1700000000.0123456780 {name}\0".encode() for name in names) + b"\0"


def archive(name: str, content: bytes = b"evil", type: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", encoding="utf-8") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = type, link, len(content)
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "name",
    ["../x.json", "/tmp/x.json", "a/../../x.json", "a/./x.json", "a//x.json", "a\x1b[2J.json", "", "a/"],
)
def test_names_that_lead_elsewhere_are_refused(sending, tmp_path: Path, name: str) -> None:
    here = sending(listed(name) if name else b"9 1700000000.0123456780 \0\0", archive(name or "x"))
    with pytest.raises(InputError, match="no file of a sweep"):
        fetch(Host("login"), "s", here, ["*"])
    assert not here.exists()


@pytest.mark.parametrize(
    "sent",
    [
        archive("./other.json"),
        archive("../plan.json"),
        archive("/plan.json"),
        archive("./plan.json", b"", tarfile.SYMTYPE, "/etc/passwd"),
        archive("./plan.json", b"", tarfile.LNKTYPE, "/etc/passwd"),
        archive("./plan.json", b"", tarfile.FIFOTYPE),
        archive("./plan.json", b"", tarfile.DIRTYPE),
        archive("./plan.json", b"x" * 3_000_000),
        archive("./plan.json")[:1024] + archive("./plan.json"),  # the same once more
    ],
)
def test_only_what_was_asked_for_is_written(sending, tmp_path: Path, sent: bytes) -> None:
    here = sending(listed("plan.json"), sent)
    with pytest.raises(InputError, match="not what was asked for"):
        fetch(Host("login"), "s", here, ["*"])
    left = [p for p in (tmp_path / "here").rglob("*") if p.is_file() or p.is_symlink()]
    assert [p.relative_to(here).as_posix() for p in left] in ([], ["plan.json"])
    assert all(p.read_bytes() == b"evil" for p in left)


def test_results_are_asked_for_after_what_they_tell_of_and_the_plan_last(sending, tmp_path: Path) -> None:
    here = sending(listed(*NAMES), archive("./spaces/001.yaml"))
    fetched = fetch(Host("login"), "s", here, ["*"])
    assert fetched
    assert (fetched.files, fetched.wanted) == (1, 5)  # the others were removed meanwhile
    asked = (tmp_path / "asked").read_text(encoding="utf-8").replace("./", "").split("\0")
    assert asked == [NAMES[3], NAMES[1], NAMES[4], NAMES[0], NAMES[2], ""]


def test_half_a_file_is_not_written(sending) -> None:
    here = sending(listed("plan.json", size=5000), archive("./plan.json", b"x" * 5000)[:3000])
    with pytest.raises(Unavailable, match=r"broken archive: .*\n0 of 1 files came: the same command"):
        fetch(Host("login"), "s", here, ["*"])
    assert not [path for path in here.rglob("*") if path.is_file()]
