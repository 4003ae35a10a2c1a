"""The commands of the `b2fs` program, for click."""

from __future__ import annotations

import importlib

import click

from b2fs import __version__
from b2fs.daemon.exits import EXIT_USAGE

#: Where each command is; loaded when it is asked for, since a mount should not wait for what `serve` needs.
_COMMANDS = {
    "mount": "b2fs.cli.mount:mount",
    "umount": "b2fs.cli.control:umount",
    "sync": "b2fs.cli.control:sync",
    "status": "b2fs.cli.control:status",
    "refresh": "b2fs.cli.contents:refresh",
    "warm": "b2fs.cli.contents:warm",
    "recover": "b2fs.cli.mount:recover",
    "serve": "b2fs.cli.serve:serve",
    "serve-key": "b2fs.cli.serve:serve_key",
    "fsck": "b2fs.cli.serve:fsck",
}


class _LazyGroup(click.Group):
    """Commands by name, imported at first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; and `b2fs URL DIR -o remount,...` is what mount.fuse(8) says."""
        if "://" in args[0]:
            from b2fs.cli.mount_helper import is_remount, mount_command

            if is_remount(args[1:]):
                return mount_command.name, mount_command, args
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="b2fs")
@click.pass_context
def cli(context: click.Context) -> None:
    """Use a Backblaze B2 or other S3-compatible bucket as a directory."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(EXIT_USAGE)
