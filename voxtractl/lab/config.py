"""The configuration files of a lab's Asterisk, as pure text: facts in, file contents out.

Nothing here touches a disk, so the same call that writes a new lab also restores a used one. Every folder
Asterisk writes to is inside the instance; the code and sound folders are left to the binary's own defaults,
which differ between distributions. The include lines of voxtractl are not written here: `voxtractl node
init` puts them in, on a lab as on any other node.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from voxtractl.lab.ports import Ports

__all__ = ["ARI_READER", "ARI_USER", "FOLDERS", "NOLOAD", "OWN_CONTEXT", "ConfigFacts", "render"]

ARI_USER: Final = "voxtractl"
ARI_READER: Final = "voxtractl-reader"  # may look and not touch: for testing what such a user is refused
OWN_CONTEXT: Final = "lab"

# Folders Asterisk owns and writes to, below the instance; its configuration folder is not among them.
# spool/recording and log/cdr-csv are not made by Asterisk: ARI's record answers 500 without the first.
FOLDERS: Final = (
    "agi-bin",
    "db",
    "keys",
    "keys/keys",
    "lib",
    "log",
    "moh",
    "run",
    "spool",
    "spool/monitor",
    "spool/recording",
    "spool/tmp",
)

# Everything is loaded but these, so that an older or newer Asterisk with other modules starts without an
# error about a missing one. Measured on 22.10.1: ready after 0.46 s, 0.69 s with nothing left out.
NOLOAD: Final[Mapping[str, str]] = {
    "need hardware": "app_jack chan_alsa chan_console chan_dahdi chan_mobile chan_oss res_timing_dahdi",
    "need a foreign server": """
        app_festival app_voicemail_imap app_voicemail_odbc cdr_adaptive_odbc cdr_beanstalkd cdr_odbc cdr_pgsql
        cdr_radius cdr_tds cel_beanstalkd cel_odbc cel_pgsql cel_radius cel_tds chan_motif func_curl func_enum
        func_odbc res_calendar res_calendar_caldav res_calendar_ews res_calendar_exchange
        res_calendar_icalendar res_config_curl res_config_ldap res_config_mysql res_config_odbc
        res_config_pgsql res_corosync res_curl res_hep res_hep_pjsip res_hep_rtcp res_http_media_cache
        res_odbc res_odbc_transaction res_prometheus res_snmp res_statsd res_stun_monitor res_xmpp""",
    "need the network's name service or keys": """
        res_geolocation res_pjsip_geolocation res_pjsip_stir_shaken res_resolver_unbound res_stir_shaken""",
    "listen on more ports": "chan_iax2 chan_mgcp chan_ooh323 chan_sip chan_skinny chan_unistim pbx_dundi",
    "act on files that others drop": "pbx_spool",
    "another way to write a dialplan": "pbx_ael pbx_lua pbx_realtime res_ael_share res_config_sqlite3",
    "keep records nobody reads in a lab": """
        cdr_csv cdr_custom cdr_manager cdr_sqlite3_custom cel_custom cel_manager cel_sqlite3_custom
        res_cdrel_custom""",
    "are of no use without their own configuration": """
        app_agent_pool app_alarmreceiver app_amd app_followme app_minivm app_sla app_voicemail res_aeap
        res_fax res_fax_spandsp res_parking res_phoneprov res_pjsip_config_wizard res_pjsip_notify
        res_pjsip_phoneprov_provider res_smdi res_speech_aeap""",
    "are obsolete or only for Asterisk's own tests": """
        app_adsiprog app_dictate app_getcpeid app_mp3 app_test app_zapateller codec_lpc10 res_adsi
        res_stasis_test""",
}

# Asterisk complains about each of these when it is absent; a comment is enough.
EMPTY: Final = (
    "acl",
    "ccss",
    "cdr",
    "cel",
    "chan_websocket",
    "cli_aliases",
    "confbridge",
    "features",
    "pjproject",
    "sorcery",
    "stasis",
    "udptl",
    "websocket_client",
)

_HEADER: Final = "; Written by voxtractl for a private lab.\n"


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """What the files depend on. ``inside`` is the instance's folder as Asterisk sees it."""

    inside: str
    ports: Ports
    ari_password: str
    reader_password: str


def render(facts: ConfigFacts) -> dict[str, str]:
    """File name to contents, for the whole configuration folder."""
    files = {f"{name}.conf": "" for name in EMPTY} | dict(_files(facts))
    return {name: _HEADER + text for name, text in sorted(files.items())}


def _files(facts: ConfigFacts) -> Iterator[tuple[str, str]]:
    inside, ports = facts.inside, facts.ports
    yield (
        "asterisk.conf",
        f"""\
[directories]
astetcdir => {inside}/etc
astvarlibdir => {inside}/lib
astdbdir => {inside}/db
astkeydir => {inside}/keys
astagidir => {inside}/agi-bin
astspooldir => {inside}/spool
astrundir => {inside}/run
astlogdir => {inside}/log

[options]
verbose = 3
hideconnect = yes
nocolor = yes
""",
    )
    yield (
        "modules.conf",
        "[modules]\nautoload = yes\n"
        + "".join(
            f"\n; {reason}\n" + "".join(f"noload = {name}.so\n" for name in names.split())
            for reason, names in NOLOAD.items()
        ),
    )
    yield (
        "logger.conf",
        "[general]\ndateformat = %F %T.%3q\n\n[logfiles]\nfull => notice,warning,error,verbose(3),dtmf\n",
    )
    yield (
        "http.conf",
        # 100 sessions, Asterisk's default, are used up by a few test clients: websockets count too.
        f"[general]\nenabled = yes\nbindaddr = 127.0.0.1\nbindport = {ports.http}\nsessionlimit = 1000\n",
    )
    yield (
        "ari.conf",
        # Plain passwords on purpose: crypt costs Asterisk 1.3 ms on each request (measured on 22.10.1).
        f"""\
[general]
enabled = yes

[{ARI_USER}]
type = user
password = {facts.ari_password}
read_only = no

[{ARI_READER}]
type = user
password = {facts.reader_password}
read_only = yes
""",
    )
    yield (
        "pjsip.conf",
        f"[transport-udp]\ntype = transport\nprotocol = udp\nbind = 127.0.0.1:{ports.sip}\n",
    )
    yield "rtp.conf", f"[general]\nrtpstart = {ports.rtp_first}\nrtpend = {ports.rtp_last}\n"
    yield (
        "extensions.conf",
        f"[general]\nstatic = yes\nwriteprotect = yes\n\n[globals]\n\n[{OWN_CONTEXT}]\n",
    )
    yield "queues.conf", "[general]\npersistentmembers = no\n"
    yield "manager.conf", "[general]\nenabled = no\n"
    yield "musiconhold.conf", f"[default]\nmode = files\ndirectory = {inside}/moh\n"
    yield (
        "indications.conf",
        # The precise tone plan of North America (frequencies in Hz, times in ms).
        """\
[general]
country = us

[us]
description = North America
ringcadence = 2000,4000
dial = 350+440
busy = 480+620/500,0/500
ring = 440+480/2000,0/4000
congestion = 480+620/250,0/250
callwaiting = 440/300,0/10000
dialrecall = !350+440/100,!0/100,!350+440/100,!0/100,!350+440/100,!0/100,350+440
record = 1400/500,0/15000
info = !950/330,!1400/330,!1800/330,0
stutter = !350+440/100,!0/100,!350+440/100,!0/100,!350+440/100,!0/100,350+440
""",
    )
