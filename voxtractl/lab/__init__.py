"""A private, real Asterisk on loopback for trying and testing; nothing outside its own folder.

    lab = up()                  # the first call as root on Debian builds one, about 30 s
    lab.cli("core show version")
    lab.down()

Synchronous on purpose: programs are started and files written, and nothing else waits for it.
"""

from voxtractl.lab.doors import default_home, find, names, purge, remove_root, up
from voxtractl.lab.instance import Lab

__all__ = ["Lab", "default_home", "find", "names", "purge", "remove_root", "up"]
