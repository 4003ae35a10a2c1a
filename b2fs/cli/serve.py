"""`b2fs serve`, `b2fs serve-key` and `b2fs fsck`: the embedded store behind HTTP, its keys and its health."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import click
import trio

from b2fs.errors import ConfigError
from b2fs.server.auth.keys import CAPABILITIES, ApplicationKey, KeyRing, missing_capabilities
from b2fs.server.config import FrontKind, KeyGrant, ServeConfig, Started, parse_listen
from b2fs.store.embedded.engine import Engine, EngineConfig

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _read_secret(path: str) -> str:
    """The secret in a file, or on standard input for `-`: never in argv, which everybody can see."""
    try:
        if path == "-":
            text = sys.stdin.readline()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file {path} cannot be read: {error}") from error
    if not text.strip():
        raise ConfigError(f"the key file {path} is empty")
    return text.strip()


def _grants(accounts: Sequence[str], ids: Sequence[str], files: Sequence[str]) -> list[KeyGrant]:
    if len(ids) != len(files) or (accounts and len(accounts) != len(ids)):
        raise ConfigError("--account, --key-id and --key-file belong together, as many of each")
    names = list(accounts) or ["default"] * len(ids)
    return [KeyGrant(name, key_id, _read_secret(file)) for name, key_id, file in zip(names, ids, files, strict=True)]


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    if match is None:
        raise ConfigError(f"{text!r} is not a time such as 20ms or 1.5s")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _caps(texts: Sequence[str]) -> dict[str, int]:
    caps = {}
    for text in texts:
        match = re.fullmatch(r"(class-b|class-c|download|storage)=(\d+)([kmgt]?)b?", text.lower())
        if match is None:
            raise ConfigError(f"--cap {text!r} is not class-b=N, class-c=N, download=BYTES or storage=BYTES")
        caps[match[1]] = int(match[2]) * _UNITS[match[3]]
    return caps


def _announce(started: Started) -> None:
    click.echo(f"b2fs serve: listening on {started.url}, region {started.region}")
    if started.trust_file is not None:
        click.echo(f"certificate to trust: {os.path.abspath(started.trust_file)}")
    for account in started.accounts:
        click.echo(f"account:        {account.name} ({account.id})")
    if started.first_key is not None:
        _show_key(started.first_key)


def _show_key(key: ApplicationKey) -> None:
    click.echo(f"account:        {key.account.name} ({key.account.id})")
    click.echo(f"keyID:          {key.key_id}")
    click.echo(f"applicationKey: {key.secret}")
    click.echo("This is the only time that the application key is shown.")


@click.command()
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--listen", default="127.0.0.1:9000", show_default=True, help="Address and port; 0 is any free port.")
@click.option("--tls-cert", type=click.Path(dir_okay=False), help="Certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(dir_okay=False), help="Its private key (PEM).")
@click.option("--tls-self-signed", is_flag=True, help="Make and keep a certificate in DIRECTORY/tls (the default).")
@click.option("--insecure-http", is_flag=True, help="Plain HTTP, on a loopback address only.")
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="Account of the next --key-id.")
@click.option("--key-id", "key_ids", multiple=True, metavar="ID", help="A key that shall exist.  May be repeated.")
@click.option("--key-file", "key_files", multiple=True, metavar="FILE", help="File with its secret; - for stdin.")
@click.option("--region", default="us-east-1", show_default=True, help="Region that signatures must name.")
@click.option("--domain", "domains", multiple=True, help="Host name under which BUCKET.HOST names a bucket.")
@click.option("--access-log", metavar="FILE", help="Write one JSON line per request; - for stdout.")
@click.option("--fault", "faults", multiple=True, metavar="OP:KIND:SHARE", help="Fail calls, as 'PutObject:503:5%'.")
@click.option("--fault-seed", type=int, default=0, help="Seed of the faults.")
@click.option("--hazard-same-second", type=int, metavar="SEED", help="Order versions of one second by chance, as B2.")
@click.option("--latency", default="0s", help="Delay every answer, as 20ms.")
@click.option("--cap", "caps", multiple=True, metavar="NAME=N", help="Daily caps, as class-c=2500 or storage=10GB.")
@click.option("--max-buckets", type=int, default=100, show_default=True, help="Buckets that an account may have.")
@click.option("--refuse-checksums", is_flag=True, help="Refuse x-amz-checksum headers, as B2 did until July 2025.")
@click.option("--no-sync", is_flag=True, help="Do not sync to the disk: for throw-away stores.")
@click.option(
    "--front",
    type=click.Choice([kind.value for kind in FrontKind]),
    default=FrontKind.OWN.value,
    help="What speaks HTTP; to compare the two.",
)
def serve(
    directory: str,
    listen: str,
    tls_cert: str | None,
    tls_key: str | None,
    tls_self_signed: bool,
    insecure_http: bool,
    accounts: Sequence[str],
    key_ids: Sequence[str],
    key_files: Sequence[str],
    region: str,
    domains: Sequence[str],
    access_log: str | None,
    faults: Sequence[str],
    fault_seed: int,
    hazard_same_second: int | None,
    latency: str,
    caps: Sequence[str],
    max_buckets: int,
    refuse_checksums: bool,
    no_sync: bool,
    front: str,
) -> None:
    """Serve the store in DIRECTORY as Backblaze B2 does: S3-compatible and native API over HTTPS."""
    # Loading the service model, TLS and lxml takes longer than all of `b2fs mount`, which shares this program.
    from b2fs.server.run import serve as run_server

    if tls_self_signed and (insecure_http or tls_cert is not None):
        raise ConfigError("--tls-self-signed excludes --tls-cert and --insecure-http")
    host, port = parse_listen(listen)
    config = ServeConfig(
        directory,
        host=host,
        port=port,
        cert_file=tls_cert,
        key_file=tls_key,
        insecure_http=insecure_http,
        region=region,
        domains=domains,
        grants=_grants(accounts, key_ids, key_files),
        faults=faults,
        fault_seed=fault_seed,
        latency_s=_duration_s(latency),
        caps=_caps(caps),
        hazard_seed=hazard_same_second,
        max_buckets=max_buckets,
        refuse_checksums=refuse_checksums,
        durable=not no_sync,
        access_log=access_log,
        front=FrontKind(front),
    )
    try:
        trio.run(run_server, config, _announce)
    except OSError as error:
        raise ConfigError(f"cannot serve {directory} on {listen}: {error}") from error


@contextmanager
def _store(directory: str) -> Iterator[Engine]:
    engine = Engine(EngineConfig(directory))
    try:
        yield engine
    finally:
        engine.close()


@click.group(name="serve-key")
def serve_key() -> None:
    """Keys of a served store."""


@serve_key.command(name="create")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--account", default="default", show_default=True, metavar="NAME")
@click.option("--name", default="", help="A name for people.")
@click.option("--key-id", default="", help="The ID; made up if missing.")
@click.option("--key-file", help="File with the secret, - for stdin; made up if missing.")
@click.option("--capability", "capabilities", multiple=True, help="Only these capabilities; all if missing.")
@click.option("--bucket", "buckets", multiple=True, help="Only these buckets, by name.")
@click.option("--prefix", default="", help="Only names that begin with this.")
def create_key(
    directory: str,
    account: str,
    name: str,
    key_id: str,
    key_file: str | None,
    capabilities: Sequence[str],
    buckets: Sequence[str],
    prefix: str,
) -> None:
    """Make a key and show it, once."""
    if unknown := missing_capabilities(capabilities):
        raise ConfigError(f"unknown capability: {', '.join(unknown)}")
    with _store(directory) as engine:
        ring = KeyRing(engine)
        draft = ApplicationKey(
            key_id,
            _read_secret(key_file) if key_file is not None else "",
            ring.ensure_account(account),
            name,
            frozenset(capabilities or CAPABILITIES),
            frozenset(engine.bucket(bucket).bucket_id for bucket in buckets) if buckets else None,
            prefix,
        )
        key = ring.create(draft)
    _show_key(key if key_file is None else replace(key, secret="(as in the key file)"))


@serve_key.command(name="list")
@click.argument("directory", type=click.Path(file_okay=False, exists=True))
def list_keys(directory: str) -> None:
    """Show the keys, without their secrets."""
    with _store(directory) as engine:
        for key in KeyRing(engine).all_keys():
            kind = "master" if key.is_master else "key"
            click.echo(f"{key.key_id}\t{kind}\t{key.account.name}\t{key.name}\t{key.account.id}")


@serve_key.command(name="delete")
@click.argument("directory", type=click.Path(file_okay=False, exists=True))
@click.argument("key_id")
def delete_key(directory: str, key_id: str) -> None:
    """Forget a key; a running server refuses it within a second."""
    with _store(directory) as engine:
        ring = KeyRing(engine)
        if ring.find(key_id) is None:
            raise ConfigError(f"there is no key {key_id}")
        ring.delete(key_id)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, exists=True))
@click.option("--repair", is_flag=True, help="Set right what can be.")
def fsck(directory: str, repair: bool) -> int:
    """Check a store: every version against its content, every file against its version."""
    with _store(directory) as engine:
        report = engine.fsck(repair=repair)
    for problem in report.problems:
        click.echo(f"{problem.kind}: {problem.detail}{' (repaired)' if problem.repaired else ''}")
    click.echo(f"{report.versions} versions, {report.contents} contents, {report.bytes_checked} bytes checked")
    return 0 if all(problem.repaired for problem in report.problems) else 1
