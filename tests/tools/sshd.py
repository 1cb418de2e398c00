"""A private OpenSSH server on loopback for tests: own host key, own keys, nothing outside its folder.

Each test asks for keys with the ``authorized_keys`` options it needs, so that one server plays every node: a
plain key, one that may do SFTP only, one whose session runs as somebody else or with other tools on its PATH.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import pytest

__all__ = ["SFTP_ONLY", "Sshd", "start_sshd"]

SFTP_ONLY = 'restrict,command="internal-sftp"'


@dataclass
class Sshd:
    """A running server. ``known_hosts`` trusts it; ``key(options)`` makes a key it accepts."""

    folder: Path
    port: int
    process: subprocess.Popen[str]
    host_key: asyncssh.SSHKey
    log: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None
    _keys: int = 0

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.geteuid()).pw_name

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def url(self, path: Path) -> str:
        return f"sftp://{self.user}@127.0.0.1:{self.port}{path}"

    def key(self, options: str = "") -> Path:
        """A new private key file, accepted with these ``authorized_keys`` options."""
        self._keys += 1
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = self.folder / f"key{self._keys}"
        key.write_private_key(path)
        path.chmod(0o600)
        line = f"{options} {key.export_public_key().decode().strip()}\n".lstrip()
        with (self.folder / "authorized_keys").open("a") as file:
            file.write(line)
        return path

    def kill_sessions(self) -> int:
        """kill -9 of every server process that carries a connection; how many there were."""
        pids = _children(self.process.pid)
        for pid in pids:
            for below in _children(pid):  # the unprivileged half, when root's sshd split itself
                _kill(below)
            _kill(pid)
        return len(pids)

    def stop(self) -> None:
        self.kill_sessions()
        self.process.terminate()
        self.process.wait(timeout=10)
        if self.reader is not None and self.process.stderr is not None:
            self.reader.join(timeout=10)
            self.process.stderr.close()


def start_sshd(folder: Path) -> Sshd:
    """Start a server in ``folder``; it listens when this returns."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.fail("OpenSSH's server is missing: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, made by its service at boot
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    host_key.write_private_key(folder / "host_key")
    (folder / "host_key").chmod(0o600)
    (folder / "authorized_keys").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\n"
        f"HostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitUserEnvironment PATH\n"
        f"SetEnv HOME={folder}\n"  # a login shell reads no .bashrc of whoever runs the tests
        "MaxStartups 100\nMaxSessions 100\nSubsystem sftp internal-sftp\n"
    )
    public = host_key.export_public_key().decode().strip()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    command = [program, "-D", "-e", "-f", str(folder / "sshd_config"), *_impartial(program)]
    if os.geteuid() == 0 and not _exists("sshd"):
        command = _with_its_user(folder, command)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    server = Sshd(folder, port, process, host_key)
    assert process.stderr is not None
    for line in process.stderr:
        server.log.append(line)
        if "Server listening" in line:
            break
    else:
        process.wait()
        process.stderr.close()
        pytest.fail(f"sshd did not start: {''.join(server.log)}")
    server.reader = threading.Thread(target=server.log.extend, args=(process.stderr,), daemon=True)
    server.reader.start()
    return server


def _impartial(program: str) -> list[str]:
    """Who failed to log in is turned away for a while by OpenSSH 9.8, at the first try of an unknown user by
    10.3: all tests come from one address."""
    words = ["-o", "PerSourcePenalties=no"]
    knows = subprocess.run([program, "-G", "-f", os.devnull, *words], capture_output=True, check=False)
    return words if knows.returncode == 0 else []


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _with_its_user(folder: Path, command: list[str]) -> list[str]:
    """Some slim images lack the user ``sshd``, without which root's server refuses to start.

    It gets an /etc/passwd with that user in a mount namespace of its own; the machine's stays as it is.
    """
    nobody = "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + nobody)
    (folder / "passwd").chmod(0o644)
    script = f'mount --bind {folder}/passwd /etc/passwd && exec "$@"'
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sshd", *command]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
