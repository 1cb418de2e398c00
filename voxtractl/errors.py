"""Every error voxtractl raises, in one tree; nothing else lives here.

An error names the culprit, the place and the next step. ``exit_code`` is what the command line ends with,
``id`` is what a script matches on (``docs/errors.md`` lists them all), ``retryable`` says whether the same
call may succeed later without anyone changing anything. Foreign exceptions are translated once, where they
enter (``from exc``), and never travel further up.

    VoxtractlError                1
    ├─ UsageFault                 2   the command line itself: an unknown tenant, no terminal to ask on
    ├─ ConfigError                3
    │   ├─ SettingsError              a VOXTRACTL_* variable or a secret that cannot be read
    │   ├─ DocumentError              one file: unreadable, not TOML, not writable (file, line, col)
    │   └─ FleetError                 rules of the document; carries all reasons, not the first
    ├─ RenderError                3
    │   ├─ TemplateError              (template, line, tenant)
    │   ├─ UnsafeValue                a value no Asterisk file can carry
    │   └─ LintFailed                 what we rendered does not prove; carries all reasons
    ├─ PlanRefused                4
    │   ├─ UnsafePlan                 deletes or moves over the threshold (why, counts)
    │   ├─ StalePlan                  the node or the document moved since the plan was reviewed
    │   ├─ DriftFound                 a hand edit on the node would be overwritten
    │   └─ NodeLocked                 somebody else is pushing (holder)
    ├─ NodeError(node)            5
    │   ├─ NodeUnreachable            [retryable]
    │   ├─ NodeAuthFailed
    │   ├─ HostKeyUnknown
    │   ├─ HostKeyChanged
    │   ├─ StoreError(path)           the node's files: disk full, permissions, a damaged stage
    │   ├─ ReloadFailed           8   Asterisk refused the files; the old ones are back
    │   ├─ VerifyFailed(missing)  8   Asterisk does not run what was pushed; the old files are back
    │   └─ RollbackFailed         9   neither the new nor the old revision could be proven
    ├─ AriError(method, path, status)  5
    │   ├─ AriUnreachable             [retryable]
    │   ├─ AriAuthFailed
    │   ├─ NotFound
    │   ├─ Conflict
    │   └─ BadRequest
    ├─ CallError(call)            1   one call, and the handler that has it
    │   ├─ CallEnded(op)              the other side is gone while the handler asked for something
    │   ├─ OriginateFailed(disposition, cause)  20 to 24, by its disposition
    │   ├─ QueueUnknown               the caller stays with the handler
    │   ├─ MediaFailed                a sound, tone or recording that Asterisk could not play or make
    │   ├─ SpeechUnavailable          no provider is configured, or it does not answer
    │   └─ LimitReached(tenant)       the tenant's own limit; nothing was dialled
    ├─ RuntimeFault               1   the runtime as a whole
    │   ├─ HandlerFault           3   a tenant's handler cannot be loaded (tenant)
    │   └─ AppReplaced            4   another process took the Stasis app
    ├─ ProtocolError              1   AudioSocket and media: bytes that break the rules
    │   ├─ LocalProtocolError         ours
    │   └─ RemoteProtocolError        Asterisk's, or of somebody who is not Asterisk
    ├─ OutputFailed               1   the work is done, but its result could not be printed
    ├─ Interrupted              130   Ctrl-C or SIGTERM; what had begun was brought to an end first
    ├─ PartialFailure             7   some nodes done, some not; carries each node's own error
    ├─ DemoFailed                 1   a step of the demo ended otherwise than it must
    └─ LabError                   1   the private Asterisk could not be built, started or stopped
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

__all__ = [
    "AppReplaced",
    "AriAuthFailed",
    "AriError",
    "AriUnreachable",
    "BadRequest",
    "CallEnded",
    "CallError",
    "ConfigError",
    "Conflict",
    "DemoFailed",
    "DocumentError",
    "DriftFound",
    "FleetError",
    "HandlerFault",
    "HostKeyChanged",
    "HostKeyUnknown",
    "Interrupted",
    "LabError",
    "LimitReached",
    "LintFailed",
    "LocalProtocolError",
    "MediaFailed",
    "NodeAuthFailed",
    "NodeError",
    "NodeLocked",
    "NodeUnreachable",
    "NotFound",
    "OriginateFailed",
    "OutputFailed",
    "PartialFailure",
    "PlanRefused",
    "ProtocolError",
    "QueueUnknown",
    "Reason",
    "ReloadFailed",
    "RemoteProtocolError",
    "RenderError",
    "RollbackFailed",
    "RuntimeFault",
    "SettingsError",
    "SpeechUnavailable",
    "StalePlan",
    "StoreError",
    "TemplateError",
    "UnsafePlan",
    "UnsafeValue",
    "UsageFault",
    "VerifyFailed",
    "VoxtractlError",
]


class Reason(NamedTuple):
    """One thing that is wrong, in the shape ``file:line:col: path: what; todo``."""

    file: str
    line: int
    col: int
    path: str  # the key in the document (``tenants.acme.dids[0]``) or the thing in a rendered file
    what: str
    todo: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.col}" if self.line else self.file
        text = f"{where}: {self.path}: {self.what}" if self.path else f"{where}: {self.what}"
        return f"{text}; {self.todo}" if self.todo else text


class VoxtractlError(Exception):
    """Root of the tree. ``str(error)`` is one sentence without the hint; the printer adds where and hint.

    A traceback has both as notes.
    """

    id: ClassVar[str] = "error"
    exit_code: int = 1
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.details: dict[str, object] = dict(details or {})
        if where:
            self.add_note(f"where: {where}")
        if hint:
            self.add_note(f"hint:  {hint}")


class UsageFault(VoxtractlError):
    """The command cannot be carried out as typed: an unknown name, or no terminal to ask on."""

    id = "usage"
    exit_code = 2


class OutputFailed(VoxtractlError):
    """What was to be printed could not be written, as to a full disk. The work itself was done."""

    id = "output"


class Interrupted(VoxtractlError):
    """Ctrl-C or SIGTERM. What had begun on a node was finished or taken back first."""

    id = "interrupted"
    exit_code = 130


# --- configuration ----------------------------------------------------------------------------------------


class ConfigError(VoxtractlError):
    """Something that was written for voxtractl is wrong; no node was touched."""

    id = "config"
    exit_code = 3


class SettingsError(ConfigError):
    """A ``VOXTRACTL_*`` variable is not valid, or a secret (file, env, command) cannot be read."""

    id = "config.settings"


class DocumentError(ConfigError):
    """One document file cannot be read, parsed or written."""

    id = "config.document"

    def __init__(
        self, message: str, *, file: str, line: int = 0, col: int = 0, hint: str | None = None
    ) -> None:
        where = f"{file}:{line}:{col}" if line else file
        super().__init__(message, where=where, hint=hint, details={"file": file, "line": line, "col": col})
        self.file, self.line, self.col = file, line, col


class _WithReasons(VoxtractlError):
    def __init__(self, message: str, reasons: Sequence[Reason], *, hint: str | None = None) -> None:
        rows = [
            {"file": r.file, "line": r.line, "col": r.col, "path": r.path, "what": r.what, "todo": r.todo}
            for r in reasons
        ]
        super().__init__(
            message, where=reasons[0].file if reasons else None, hint=hint, details={"reasons": rows}
        )
        self.reasons: tuple[Reason, ...] = tuple(reasons)


class FleetError(_WithReasons, ConfigError):
    """The document breaks its rules; ``reasons`` holds every one of them."""

    id = "config.fleet"


# --- rendering --------------------------------------------------------------------------------------------


class RenderError(VoxtractlError):
    """The files for Asterisk cannot be made; no node was touched."""

    id = "render"
    exit_code = 3


class TemplateError(RenderError):
    """A template is missing, broken, or reads a value it does not get."""

    id = "render.template"

    def __init__(
        self,
        message: str,
        *,
        template: str,
        line: int = 0,
        tenant: str | None = None,
        hint: str | None = None,
    ) -> None:
        where = f"{template}:{line}" if line else template
        super().__init__(
            message, where=where, hint=hint, details={"template": template, "line": line, "tenant": tenant}
        )
        self.template, self.line, self.tenant = template, line, tenant


class UnsafeValue(RenderError):
    """A value that no Asterisk configuration file can carry exactly (line break, NUL, edge blank)."""

    id = "render.unsafe-value"


class LintFailed(_WithReasons, RenderError):
    """Rendered text does not prove: foreign context, incomplete or double extension, line too long."""

    id = "render.lint"


# --- plans ------------------------------------------------------------------------------------------------


class PlanRefused(VoxtractlError):
    """What was asked for is refused; no node was changed."""

    id = "plan"
    exit_code = 4


class UnsafePlan(PlanRefused):
    """The plan deletes or moves more than the thresholds allow; nothing was pushed."""

    id = "plan.unsafe"


class StalePlan(PlanRefused):
    """The reviewed plan is no longer what would be applied; nothing was pushed."""

    id = "plan.stale"


class DriftFound(PlanRefused):
    """Somebody edited the node by hand; nothing was pushed."""

    id = "plan.drift"


class NodeLocked(PlanRefused):
    """Another push holds the node's lock."""

    id = "plan.locked"
    retryable = True


# --- nodes ------------------------------------------------------------------------------------------------


class NodeError(VoxtractlError):
    """Something is wrong with one node; ``details['node']`` names it."""

    id = "node"
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        node: str,
        where: str | None = None,
        hint: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            message, where=where or f"node {node}", hint=hint, details={"node": node, **(details or {})}
        )
        self.node = node


class NodeUnreachable(NodeError):
    """The node, or Asterisk on it, does not answer."""

    id = "node.unreachable"
    retryable = True


class NodeAuthFailed(NodeError):
    """The node refuses the key, the user or the password."""

    id = "node.auth"


class HostKeyUnknown(NodeError):
    """The node's SSH key was never trusted here."""

    id = "node.host-key-unknown"


class HostKeyChanged(NodeError):
    """The node shows another SSH key than the trusted one. No flag overrides this."""

    id = "node.host-key-changed"


class StoreError(NodeError):
    """The node's files refused: disk full, permissions, a stage that is not what was sent."""

    id = "node.store"


class ReloadFailed(NodeError):
    """Asterisk refused to load the files. What runs is said in the message."""

    id = "node.reload"
    exit_code = 8


class VerifyFailed(NodeError):
    """Asterisk does not run exactly the revision. ``details['missing']`` names what is not live."""

    id = "node.verify"
    exit_code = 8


class RollbackFailed(NodeError):
    """The old revision could not be proven after a failed push. A person must look at this node now."""

    id = "node.rollback"
    exit_code = 9


class PartialFailure(VoxtractlError):
    """Some nodes (or calls, or numbers) succeeded and some did not."""

    id = "partial"
    exit_code = 7


# --- ARI --------------------------------------------------------------------------------------------------


class AriError(VoxtractlError):
    """Asterisk's REST interface answered with an error. ``status`` is 0 when there was no answer."""

    id = "ari"
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        method: str,
        path: str,
        status: int = 0,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(
            message, where=where, hint=hint, details={"method": method, "path": path, "status": status}
        )
        self.method, self.path, self.status = method, path, status


class AriUnreachable(AriError):
    """Asterisk does not answer at the address of its ARI."""

    id = "ari.unreachable"
    retryable = True


class AriAuthFailed(AriError):
    """Asterisk refuses the user or password of its ARI."""

    id = "ari.auth"


class NotFound(AriError):
    """Asterisk has no such thing."""

    id = "ari.not-found"


class Conflict(AriError):
    """Asterisk cannot do it in the state it is in."""

    id = "ari.conflict"


class BadRequest(AriError):
    """Asterisk does not understand the request."""

    id = "ari.bad-request"


# --- calls ------------------------------------------------------------------------------------------------


class CallError(VoxtractlError):
    """Something is wrong with one call; ``details['call_id']`` names it. Other calls are not touched."""

    id = "call"

    def __init__(
        self,
        message: str,
        *,
        call: str | None = None,
        hint: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        where = f"call {call}" if call else None
        super().__init__(message, where=where, hint=hint, details={"call_id": call, **(details or {})})
        self.call = call


class CallEnded(CallError):
    """The call ended before or while the handler asked for ``op``. A handler may simply let it fly."""

    id = "call.ended"

    def __init__(self, op: str, *, call: str | None = None) -> None:
        super().__init__(f"the call ended: {op} is not possible any more", call=call, details={"op": op})
        self.op = op


class OriginateFailed(CallError):
    """Nobody answered. ``disposition`` says how it ended (``runtime.disposition``), ``cause`` is Q.850."""

    id = "call.originate"
    exit_code = 24
    exit_codes: ClassVar[Mapping[str, int]] = {"busy": 20, "no_answer": 21, "rejected": 22, "congestion": 23}

    def __init__(
        self,
        message: str,
        *,
        disposition: str,
        cause: int = 0,
        tech_cause: int = 0,
        call: str | None = None,
        hint: str | None = None,
    ) -> None:
        details = {"disposition": disposition, "cause": cause, "tech_cause": tech_cause}
        super().__init__(message, call=call, hint=hint, details=details)
        self.disposition, self.cause, self.tech_cause = disposition, cause, tech_cause
        self.exit_code = self.exit_codes.get(disposition, type(self).exit_code)


class QueueUnknown(CallError):
    """There is no such queue on this Asterisk; the caller stays with the handler."""

    id = "call.queue"


class MediaFailed(CallError):
    """Asterisk could not play or record: no such sound, scheme, file or folder."""

    id = "call.media"


class SpeechUnavailable(CallError):
    """No provider of speech is configured, or it does not answer; the hint names the line to configure."""

    id = "call.speech"


class LimitReached(CallError):
    """A tenant's own limit (calls at once, calls a second, media legs) refuses this."""

    id = "call.limit"

    def __init__(self, message: str, *, tenant: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, details={"tenant": tenant})
        self.tenant = tenant


# --- the runtime ------------------------------------------------------------------------------------------


class RuntimeFault(VoxtractlError):
    """Something is wrong with the runtime as a whole, not with one call."""

    id = "runtime"


class HandlerFault(RuntimeFault):
    """A tenant's handler cannot be loaded; its calls take the dialplan's fallback, other tenants go on."""

    id = "runtime.handler"
    exit_code = 3

    def __init__(
        self, message: str, *, tenant: str, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, where=where, hint=hint, details={"tenant": tenant})
        self.tenant = tenant


class AppReplaced(RuntimeFault):
    """Another process registered the same Stasis app; Asterisk sends this one no events any more."""

    id = "runtime.app-replaced"
    exit_code = 4


class ProtocolError(VoxtractlError):
    """Bytes of a media connection that break the protocol's rules."""

    id = "protocol"


class LocalProtocolError(ProtocolError):
    """We were about to send what the protocol forbids; nothing was sent."""

    id = "protocol.local"


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids; its connection was closed."""

    id = "protocol.remote"


# --- the lab ----------------------------------------------------------------------------------------------


class DemoFailed(VoxtractlError):
    """A step of ``voxtractl demo`` ended otherwise than it must; the output before it says how."""

    id = "demo"


class LabError(VoxtractlError):
    """The private Asterisk could not be built, started, reached or stopped."""

    id = "lab"
