"""``raftkv cluster``: the options of its commands; what they do is in :mod:`raftkv.cli.members`."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from raftkv.cli.options import Host, Password, Port, User
from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.cli.members import Admin, Group

app = typer.Typer(
    help="Look at a cluster and change its members while it serves. Any node may be asked: the leader is found.",
    no_args_is_help=True,
)

NodeId = Annotated[str, typer.Argument(metavar="NODE", help="Id of a node.", show_default=False)]
Address = Annotated[
    str,
    typer.Argument(metavar="HOST:PORT", help="Its peer address: where the other nodes reach it.", show_default=False),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until the node votes. Interrupting the wait does not undo the change.")
]
WaitFor = Annotated[float, typer.Option("--wait-timeout", help="Seconds for which --wait waits.")]
WAIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Link:
    """The options that all commands have: whom to ask, and how to answer."""

    port: Port = 7379
    host: Host = "127.0.0.1"
    password: Password = ""
    user: User = ""
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds for which a request is repeated that was certainly not done.")
    ] = 15.0
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False

    def admin(self) -> Admin:
        """Somebody who asks the cluster."""
        from raftkv.cli.members import Admin
        from raftkv.config_values import join_address

        if self.timeout <= 0:
            raise typer.BadParameter("more than 0 seconds are needed", param_hint="--timeout")
        address = join_address(self.host, self.port)
        return Admin(address, timeout_s=self.timeout, user=self.user, password=self.password)

    def answer(self, group: Group, text: str, **more: object) -> None:
        """``text`` for people, or the members and ``more`` as JSON."""
        print(json.dumps(group.fields | more) if self.as_json else text)


def _fail(error: RaftKVError | OSError) -> NoReturn:
    print(f"raftkv cluster: {error.message if isinstance(error, RaftKVError) else error}", file=sys.stderr)
    raise typer.Exit(1) from None


def _command(name: str) -> Callable[[Callable[..., None]], None]:
    """Declare a command: its own parameters, and after them the options of :class:`Link`."""

    def declare(run: Callable[..., None]) -> None:
        common = inspect.signature(Link, eval_str=True).parameters.values()
        own = list(inspect.signature(run, locals={"Admin": object}, eval_str=True).parameters.values())[2:]

        def call(**given: Any) -> None:
            link = Link(**{one.name: given.pop(one.name) for one in fields(Link)})
            try:
                admin = link.admin()
                try:
                    run(admin, link, **given)
                finally:
                    admin.close()
            except BrokenPipeError:  # whoever reads our output has enough: the root command knows what to do
                raise
            except (RaftKVError, OSError) as error:
                _fail(error)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *common)]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature reads
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        call.__doc__ = run.__doc__
        app.command(name)(call)

    return declare


@_command("status")
def _status(admin: Admin, link: Link) -> None:
    """Show who belongs to the cluster, who leads, and how far each member is."""
    from raftkv.cli.members import summary, table

    group = admin.look()
    link.answer(group, f"{summary(group)}\n\n{table(group)}")


@_command("add")
def _add(
    admin: Admin, link: Link, node: NodeId, address: Address,
    learner: Annotated[bool, typer.Option("--learner", help="Do not let it vote until `raftkv cluster promote`.")] = False,
    wait: Wait = False, wait_timeout: WaitFor = WAIT_S,
) -> None:  # fmt: skip
    """Add a new node, and say how to start it. It gets the data first, and votes once it has caught up."""
    if learner and wait:
        raise typer.BadParameter("a node with --learner does not become a voter by itself", param_hint="--wait")
    words = ["RAFT.ADD", node, address, *(["LEARNER"] if learner else [])]
    end = "a learner until: raftkv cluster promote " + node if learner else "a voter as soon as it has caught up"
    _join(admin, link, words, f"{node} is a member, {end}", wait_s=wait_timeout if wait else None)


@_command("replace")
def _replace(
    admin: Admin, link: Link, old: Annotated[str, typer.Argument(metavar="OLD", help="Id of the member that leaves.")],
    node: NodeId, address: Address, wait: Wait = False, wait_timeout: WaitFor = WAIT_S,
) -> None:  # fmt: skip
    """Add a new node that takes the place of OLD once it has caught up; OLD may be dead."""
    words = ["RAFT.ADD", node, address, "REPLACES", old]
    text = f"{node} is a member; {old} is removed and {node} votes as soon as it has caught up"
    _join(admin, link, words, text, wait_s=wait_timeout if wait else None)


def _join(admin: Admin, link: Link, words: list[str], text: str, *, wait_s: float | None) -> None:
    """Add, tell how to start the node, and wait for it if that is wanted."""
    from raftkv.cli.members import Progress, start_advice, start_words

    node, address = words[1], words[2]
    group = admin.change(words, lambda now: now.get(node) is not None)
    cluster = group.fields["cluster"]
    advice = f"{text}. If it does not run yet, {start_advice(node, address, cluster)}"
    if wait_s is None:
        link.answer(group, advice, start=start_words(node, address, cluster))
        return
    print(advice, file=sys.stderr if link.as_json else sys.stdout, flush=True)
    show = Progress(_to_stderr, terminal=sys.stderr.isatty(), monotonic=time.monotonic)
    try:
        group = admin.wait(node, within_s=wait_s, tell=show, monotonic=time.monotonic)
    finally:
        show.end()
    link.answer(group, f"{node} is a voter now", start=start_words(node, address, cluster))


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


@_command("promote")
def _promote(admin: Admin, link: Link, node: NodeId) -> None:
    """Make a learner a voter. While it has not caught up, this is tried again until --timeout."""
    group = admin.change(["RAFT.PROMOTE", node], lambda now: bool((now.get(node) or {}).get("voter")))
    link.answer(group, f"{node} is a voter now ({group.strength})")


@_command("remove")
def _remove(admin: Admin, link: Link, node: NodeId) -> None:
    """Remove a member for good. If it leads, it hands over first."""
    group = admin.change(["RAFT.REMOVE", node], lambda now: now.get(node) is None)
    link.answer(
        group,
        f"{node} is removed ({group.strength}). Its process, if it runs, stops serving and says so; end "
        f"it and delete its data directory, which no node of this cluster admits any more. Take it out of the clients' "
        f"lists of nodes.",
    )


@_command("alarms")
def _alarms(
    admin: Admin, link: Link,
    action: Annotated[str | None, typer.Argument(metavar="clear", help="Clear the alarm of NODE. Without it: list the alarms.")] = None,
    node: Annotated[str | None, typer.Argument(metavar="NODE", help="The member whose alarm to clear.")] = None,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of alarm to clear.")] = "NOSPACE",
) -> None:  # fmt: skip
    """List the alarms, or clear one. An alarm names a member whose disk is full; while it stands, the
    cluster refuses what takes space.

    A member clears its alarm by itself once it has room. Clear by hand only that of a member that is down for good.
    """
    from raftkv.cli.members import alarms_text

    cleared = 0
    if action is not None:
        if action != "clear" or node is None:
            raise typer.BadParameter("either nothing, or: clear NODE [KIND]")
        cleared = admin.clear_alarm(node, kind)
    standing = admin.alarms()
    text = alarms_text(standing) if action is None else f"{cleared or 'no'} alarm cleared; {alarms_text(standing)}"
    print(json.dumps({"alarms": standing, "cleared": cleared}) if link.as_json else text)


@_command("transfer")
def _transfer(
    admin: Admin, link: Link, node: Annotated[str | None, typer.Argument(metavar="NODE", help="Who is to lead.", show_default=False)] = None
) -> None:  # fmt: skip
    """Hand leadership to NODE or, without one, to the voter that has most of the log."""
    words = ["RAFT.TRANSFER", *([node] if node else [])]
    group = admin.change(words, lambda now: not node or now.fields["leader_id"] == node)
    link.answer(group, f"{group.fields['leader_id'] or 'nobody yet'} leads")
