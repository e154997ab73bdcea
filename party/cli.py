"""`tidegate party`, `tidegate campaign`: what people at a party type."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from tidegate.protocols.channel import CarrierError, ConfigError, PolicyError
from tidegate.wire.identity import Card, Identity

from . import campaign as campaign_file
from . import dataset, mail, policy, screen
from .accountant import epsilon_of
from .agreed import terms
from .config import AUDIT_FOLDER, Home, default_home, write_file
from .models_cli import models_app
from .screen import console, say
from .store import FINAL, Campaign, Offer, Store
from .tokens_cli import tokens_app

if TYPE_CHECKING:
    from tidegate.wire.relay_pb2_grpc import RelayAsyncStub

party_app = typer.Typer(
    help="A party: its keys, its partners, its data, its consent and its node.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Register data sets and show partners their columns.", no_args_is_help=True)
party_app.add_typer(data_app, name="data")
party_app.add_typer(tokens_app, name="tokens")
party_app.add_typer(models_app, name="models")
campaign_app = typer.Typer(
    help="Check, propose and follow a campaign (a TOML file that the brand, or one of the clients, writes).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", envvar="TIDEGATE_HOME", help="The party's folder. Default: ~/.tidegate/party", show_default=False
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for programs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CampaignName = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="Its name, or the first digits of its number.")]
CampaignRef = Annotated[
    str, typer.Argument(metavar="FILE.toml|CAMPAIGN", help="The campaign file, or the campaign's name or number.")
]


@party_app.callback()
def party(ctx: typer.Context, home: HomeOption = None) -> None:
    """A party: its keys, its partners, its data, its consent and its node."""
    ctx.obj = Home((home or default_home()).expanduser().absolute())


@campaign_app.callback()
def campaign(ctx: typer.Context, home: HomeOption = None) -> None:
    """Check, propose and follow a campaign (a TOML file that the brand, or one of the clients, writes)."""
    ctx.obj = Home((home or default_home()).expanduser().absolute())


@contextmanager
def opened(ctx: typer.Context) -> Iterator[tuple[Home, Store]]:
    """The home that --home named, and its store."""
    home: Home = ctx.obj
    store = Store(home.require().store_db)
    try:
        yield home, store
    finally:
        store.close()


def sync(home: Home, store: Store, *, quiet: bool = False) -> bool:
    """Fetches letters and states; False, and unless `quiet` a word about it, when the coordinator cannot be reached."""
    if not home.has_joined():
        return False

    async def work(relay: RelayAsyncStub) -> list[str]:
        lines = await mail.collect(home, store, relay)
        await mail.look(home, store, relay)
        return lines

    try:
        lines = mail.online(home, work)
    except CarrierError as error:
        if not quiet:
            screen.notices([f"{error.text}; this is what is known here"])
        return False
    if not quiet:
        screen.notices(lines)
    return True


# Keys and partners


@party_app.command()
def init(
    ctx: typer.Context, name: Annotated[str, typer.Argument(help="The party's name: lower case, digits, - and _.")]
) -> None:
    """Make a party: a folder with its keys. Say NAME as partners shall know it."""
    home: Home = ctx.obj
    home.create(name)
    try:
        Identity.generate(name).save(home.identity_key)
        Store(home.store_db).close()
    except BaseException:
        # Without keys it is no party: a second attempt must not find half of one.
        home.party_toml.unlink(missing_ok=True)
        raise
    identity = home.load_identity()
    say(f"Made the party {name} in {home.path}")
    say(f"Fingerprint: {identity.card.fingerprint}")
    say("Next: `tidegate party join INVITE` with the coordinator's invite; `tidegate party card` for your partner.")


@party_app.command()
def join(
    ctx: typer.Context,
    invite: Annotated[
        str,
        typer.Argument(help="The line from `tidegate coordinator invite`, or - to read it from standard input."),
    ],
) -> None:
    """Join a coordinator with a single-use invite."""
    home: Home = ctx.obj
    if invite == "-":
        # What is typed as an argument, others on the same machine can see while the command runs.
        invite = sys.stdin.read(100_000)
    address = mail.join(home.require(), invite)
    with opened(ctx) as (_, store):
        store.audit("joined a coordinator", address=address)
    say(f"{home.name()} has joined the coordinator at {address}")


@party_app.command()
def card(
    ctx: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Write it to a file instead.", show_default=False)] = None,
) -> None:
    """Print this party's card: give it to partners by a way they trust. It holds no secret."""
    home: Home = ctx.obj
    own = home.load_identity().card
    if out is None:
        typer.echo(own.to_text(), nl=False)
        return
    write_file(out, own.to_text().encode(), mode=0o644)
    say(f"Wrote the card of {own.name} to {out}; fingerprint {own.fingerprint}")


@party_app.command()
def trust(
    ctx: typer.Context,
    given: Annotated[
        str, typer.Argument(metavar="CARD", help="A file with the partner's card, or - for standard input.")
    ],
    fingerprint: Annotated[
        str, typer.Option(help="The fingerprint that the partner told you.", show_default=False)
    ] = "",
    yes: Yes = False,
) -> None:
    """Pin a partner's card. Only what its keys signed counts from then on."""
    theirs = Card.parse(_card_text(given))
    with opened(ctx) as (home, store):
        if theirs.name == home.name():
            raise ConfigError(
                f"this is a card of {theirs.name}, the name of this party itself", "trust the partner's card"
            )
        say(f"Card of {theirs.name}")
        say(f"Fingerprint: {theirs.fingerprint}")
        if fingerprint and not theirs.has_fingerprint(fingerprint):
            raise PolicyError(
                f"the fingerprint of this card is not the one that {theirs.name} told you",
                "do not trust it; ask for the card again",
            )
        if not fingerprint and not yes:
            if given == "-":
                raise ConfigError(
                    "a card from standard input cannot be asked about", "add --fingerprint with what you were told"
                )
            _confirm(f"Does {theirs.name} read out the same fingerprint?", "The card was not trusted.")
        store.trust(theirs.name, theirs.identity, theirs.to_text().encode())
        say(f"{theirs.name} is trusted now")
        screen.notices(mail.file_letters_aside(store, home.load_identity(), theirs.name))


def _card_text(given: str) -> str:
    if given == "-":
        return sys.stdin.read(100_000)
    try:
        return Path(given).read_text()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"there is no readable card at {given}", "name the file that your partner sent") from None


def _confirm(question: str, otherwise: str) -> None:
    if not typer.confirm(question):
        say(otherwise)
        raise typer.Exit(1)


@party_app.command()
def distrust(ctx: typer.Context, name: Annotated[str, typer.Argument(help="The partner.")]) -> None:
    """Forget a partner's card; campaigns with it no longer run."""
    with opened(ctx) as (_, store):
        store.distrust(name)
        say(f"{name} is no longer trusted")


@party_app.command()
def partners(ctx: typer.Context) -> None:
    """List the partners whose cards are trusted."""
    with opened(ctx) as (_, store):
        shown = screen.table("partner", "fingerprint", "trusted since")
        for partner in store.partners():
            theirs = Card.parse(partner.card.decode())
            screen.row(shown, partner.name, theirs.fingerprint, screen.day(partner.trusted_s))
        if not shown.row_count:
            say("No card is trusted yet: ask your partner for the output of `tidegate party card`.")
            return
        console.print(shown)


# Data


@data_app.command("add")
def data_add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What contracts shall call it.")],
    file: Annotated[Path, typer.Argument(help="A .csv or .parquet file; it stays where it is.")],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            help="KIND=COLUMN: email, phone, device or text. Repeat for several; none for campaigns of clients.",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        str, typer.Option(help="Two-letter country of phone numbers without a country code, e.g. NL.")
    ] = "",
    duplicates: Annotated[str, typer.Option(help="Several rows of one person: refuse or keep-first.")] = "refuse",
    hashed: Annotated[
        list[str] | None,
        typer.Option(
            "--hashed", help="KIND=FORM: that key's column holds sha256 or md5 digests. Repeat.", show_default=False
        ),
    ] = None,
) -> None:
    """Register a file under a name. It is read, checked and committed to; nothing leaves."""
    with opened(ctx) as (_, store):
        keys = dataset.parse_keys(key or [])
        given = dataset.parse_hashed(hashed or [], keys)
        made = dataset.register(store, name, file, keys, region, duplicates, given)
        data = made.dataset
        kinds = [column["kind"] for column in data.columns]
        features = kinds.count("number") + kinds.count("category")
        say(
            f"Registered {data.name}: {data.rows:,} rows, {features} columns that can be features, "
            f"{kinds.count('text')} of free text"
        )
        shown = screen.table("key", "column", "given", "valid", "invalid", "missing", "repeated")
        for kind, found in made.validity.items():
            numbers = (f"{rows:,}" for rows in (found.invalid, found.missing, found.duplicates))
            share = f"{found.valid:,} ({math.floor(1000 * found.share_valid) / 10:g} %)"
            screen.row(shown, kind, data.keys[kind], data.given.get(kind, "clear"), share, *numbers)
        if shown.row_count:
            console.print(shown)
        else:
            say("  no identifiers: it can be trained on with other clients, but not matched (--key email=COLUMN)")
        for kind, found in made.validity.items():
            if found.shapes:
                say(f"  invalid {kind}: {', '.join(f'{shape} ({rows:,} rows)' for shape, rows in found.shapes)}")
            if hint := dataset.hint(kind, data.given.get(kind, "clear"), region, found):
                say(f"  {hint}")
        say(f"  commitment {data.commitment[:16]}...")


@data_app.command("list")
def data_list(ctx: typer.Context) -> None:
    """List the registered data sets."""
    with opened(ctx) as (_, store):
        shown = screen.table("data set", "rows", "columns", "keys", "file", "commitment")
        for data in store.datasets():
            keys = ", ".join(f"{kind}={column}{_digests(data.given, kind)}" for kind, column in data.keys.items())
            screen.row(
                shown,
                data.name,
                f"{data.rows:,}",
                str(len(data.columns)),
                keys,
                str(data.path),
                f"{data.commitment[:16]}...",
            )
        if not shown.row_count:
            say("No data set is registered yet: `tidegate party data add NAME FILE --key email=COLUMN`.")
            return
        console.print(shown)


@data_app.command("offer")
def data_offer(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A registered data set; without it, offers from partners are listed.")
    ] = "",
    to: Annotated[str, typer.Option("--to", help="The partner that may see its columns.", show_default=False)] = "",
) -> None:
    """Show a trusted partner a data set's columns, kinds and ranges; never rows."""
    if not name:
        data_offers(ctx)
        return
    if not to:
        raise ConfigError("to whom?", f"`tidegate party data offer {name} --to PARTNER`")
    with opened(ctx) as (home, store):
        shown = mail.online(home, lambda relay: mail.offer(home, store, relay, name, to))
        say(f"{to} sees of {name}: {shown.rows:,} rows, keys {_keys(shown)}, {len(shown.columns)} columns")
        console.print(screen.offer_columns(shown))


@data_app.command("offers")
def data_offers(ctx: typer.Context) -> None:
    """List what partners have offered to this party."""
    with opened(ctx) as (home, store):
        sync(home, store)
        offers = store.offers(sent=False)
        for offer in offers:
            say(f"{offer.partner}: {offer.dataset}", "bold")
            say(f"{offer.rows:,} rows, keys {_keys(offer)}, offered {screen.ago(offer.at_s)}")
            console.print(screen.offer_columns(offer))
            say("")
        if not offers:
            say("No partner has offered a data set yet. Ask for `tidegate party data offer NAME --to` your name.")


def _keys(offer: Offer) -> str:
    return ", ".join(f"{kind}{_digests(offer.given, kind)}" for kind in offer.keys) or "none"


def _digests(given: dict[str, str], kind: str) -> str:
    return f" ({given[kind]} digests)" if kind in given else ""


# The node


@party_app.command()
def up(ctx: typer.Context) -> None:
    """Run this party's node: it waits for approved campaigns and plays this party's part. Ctrl-C stops it."""
    # The node brings the protocols' libraries; the other commands should start without them.
    from . import node

    home: Home = ctx.obj
    raise typer.Exit(node.run(home, lambda line: console.print(line, markup=False, soft_wrap=True)))


def is_up(home: Home) -> bool:
    """Whether a node runs on this home: it holds a lock on HOME/node.lock."""
    try:
        with (home.path / "node.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# Consent


@party_app.command()
def campaigns(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the campaigns this party knows."""
    with opened(ctx) as (home, store):
        sync(home, store)
        found = store.campaigns()
        if as_json:
            typer.echo(json.dumps([screen.status(store, one, home.name()) for one in found], indent=2))
            return
        if not found:
            say("No campaign is known here. A brand proposes one with `tidegate campaign propose FILE.toml`.")
            return
        shown = screen.table("campaign", "number", "proposed by", "when", "state")
        for one in found:
            screen.row(
                shown, one.name, one.short, one.proposer, screen.ago(one.added_s), screen.state(store, one, home.name())
            )
        console.print(shown)


@party_app.command()
def show(ctx: typer.Context, name: CampaignName) -> None:
    """Show a contract: who, which columns, which steps, and what everybody would learn."""
    with opened(ctx) as (home, store):
        sync(home, store)
        found = store.campaign(name)
        problems = [] if found.state in FINAL else policy.problems(home, store, found.contract, time.time())
        screen.contract(store, found, home.name(), problems)
        if not problems and found.state == "signing" and home.name() not in store.signatures(found.hash):
            say(f"`tidegate party approve {found.short}` signs it, `tidegate party refuse {found.short}` says no.")


@party_app.command()
def approve(ctx: typer.Context, name: CampaignName, yes: Yes = False) -> None:
    """Sign a proposed contract, after showing what everybody learns."""
    with opened(ctx) as (home, store):
        sync(home, store)
        found = store.campaign(name)
        if home.name() in store.signatures(found.hash):
            say(f"{found.name} ({found.short}) was approved here before; {screen.state(store, found, home.name())}")
            return
        if found.state in FINAL:
            raise PolicyError(
                f"the campaign {found.name} is over: {screen.state(store, found, home.name())}",
                "have it proposed again",
            )
        problems = policy.problems(home, store, found.contract, time.time())
        screen.contract(store, found, home.name(), problems[1:])
        if problems:
            raise problems[0]
        if not yes:
            _confirm(f"Sign this contract for {home.name()}?", "Nothing was signed.")
        mail.online(home, lambda relay: mail.approve(home, store, relay, found))
        say(f"{home.name()} approved {found.name} ({found.short})", "green")
        _remind_to_be_up(home)


def _remind_to_be_up(home: Home) -> None:
    if not is_up(home):
        say(f"It runs while this party's node is up: `tidegate party --home {home.path} up`")


@party_app.command()
def refuse(
    ctx: typer.Context,
    name: CampaignName,
    reason: Annotated[str, typer.Option(help="Why; the other parties read it.", show_default=False)] = "",
) -> None:
    """Say no to a proposed contract."""
    with opened(ctx) as (home, store):
        sync(home, store)
        found = store.campaign(name)
        mail.online(home, lambda relay: mail.refuse(home, store, relay, found, reason))
        say(f"{home.name()} refused {found.name} ({found.short})")


@party_app.command()
def retry(ctx: typer.Context, name: CampaignName) -> None:
    """Agree to three more attempts at a step that was answered three times without an end."""
    with opened(ctx) as (_, store):
        found = store.campaign(name)
        if found.state in FINAL:
            raise PolicyError(f"the campaign {found.name} is over: {found.state}", "have it proposed again")
        store.renew(found.hash)
        say(f"Each step of {found.name} ({found.short}) may be attempted three more times")


@party_app.command()
def results(
    ctx: typer.Context,
    name: CampaignName,
    export: Annotated[
        Path | None, typer.Option(help="Copy the results and a report into this new folder.", show_default=False)
    ] = None,
) -> None:
    """Show what a campaign brought this party; --export also writes report.html and report.json."""
    with opened(ctx) as (home, store):
        found = store.campaign(name)
        folder = home.campaign(found.short)
        steps = [step.name for step in found.contract.steps]
        if not any((folder / step / "facts.json").is_file() for step in steps):
            raise ConfigError(
                f"the campaign {found.name} has no results here yet", f"it {screen.state(store, found, home.name())}"
            )
        say(f"Campaign {found.name} ({found.short}): {screen.state(store, found, home.name())}", "bold")
        screen.results(folder, found.contract, home.name())
        if export is not None:
            report = export_results(home, found, folder, export)
            store.audit("results exported", found.hash)
            say(f"Results and report are in {export}: open {report.name}")


def export_results(home: Home, found: Campaign, folder: Path, out: Path) -> Path:
    """Copies the results of the committed steps and writes the report; all of it or nothing."""
    # Reports draw with matplotlib, which takes a second to load.
    from . import report

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty", "name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
            whole = Path(made) / "whole"
            whole.mkdir(mode=0o700)
            for step in found.contract.steps:
                if (folder / step.name).is_dir():
                    shutil.copytree(folder / step.name, whole / step.name, ignore=shutil.ignore_patterns(AUDIT_FOLDER))
            (whole / "contract.json").write_bytes(found.contract_bytes)
            written = report.build(folder, found.contract, home.name(), whole)
            if out.exists():
                out.rmdir()
            whole.rename(out)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written: {error.strerror}", "free some space or name another folder"
        ) from None
    return out / written.name


@party_app.command()
def budget(ctx: typer.Context) -> None:
    """Show what was spent of each data set's budgets, per partner."""
    with opened(ctx) as (_, store):
        names = {data.digest: data.name for data in store.datasets()}
        shown = screen.table("data set", "partner", "what", "spent", "attempts")
        for charge in store.charges():
            data = names.get(charge.digest, f"an earlier file ({charge.digest[:8]})")
            spent = str(charge.amount)
            if charge.kind == "privacy":
                spent = f"epsilon {epsilon_of(charge.amount / 1e6, 1e-6):.2f} at delta 1e-6"
            screen.row(shown, data, charge.partner, charge.kind, spent, str(charge.attempts))
        if not shown.row_count:
            say("Nothing was spent yet.")
            return
        console.print(shown)


@party_app.command("retrace")
def retrace_campaign(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The name or short name of a campaign.")],
) -> None:
    """For an auditor at the brand: derive all that it sent in a campaign again, from its seeds and its data."""
    # Plays every step once more, with all that it takes.
    from .retrace import retrace

    with opened(ctx) as (home, store):
        found = store.campaign(name)
        steps = 0
        for step in retrace(home, store, found):
            steps += 1
            said = f"{step.messages:,} messages, {step.sent_bytes:,} bytes"
            say(f"{step.step}: {said} came out as they were sent; digest of the receipts {step.digest}")
        store.audit("campaign retraced", found.hash, steps=steps)
        partners = ", ".join(party.name for party in found.contract.media)
        say(
            f"What was sent in {steps} steps follows from the contract, the data set and the seeds. Compare digests "
            f"with those at the beginning of the receipts in the audit trail of {partners}.",
            "green",
        )


@party_app.command()
def audit(
    ctx: typer.Context,
    expect: Annotated[
        str, typer.Option(help="A head noted earlier; the trail must still pass through it.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are kept.")] = False,
) -> None:
    """Verify and print the audit trail: what was shown, signed, run and released."""
    with opened(ctx) as (_, store):
        entries = store.audit_trail(expect or None)
        if as_json:
            for entry in entries:
                typer.echo(entry.line)
            return
        for entry in entries:
            detail = " ".join(f"{name}={value}" for name, value in entry.detail.items())
            about = f"{entry.event} {entry.contract[:12]} {_shorter(detail)}"
            say(f"{entry.seq:5}  {screen.day(entry.at_s)}  {about}".rstrip())
        head = entries[-1].hash if entries else ""
        say(
            f"The trail is whole: {len(entries)} entries. Note its head to check later that nothing was cut: {head}",
            "green",
        )


def _shorter(text: str, longest: int = 100) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


# Campaigns


@campaign_app.command()
def check(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The campaign file.")]
) -> None:
    """Say everything that is wrong with a campaign file, or what everybody would learn from it."""
    with opened(ctx) as (home, store):
        sync(home, store)
        made = _checked(file, home, store)
        _preview(made)
        say(f"{file.name} is right: `tidegate campaign propose {file}` signs and sends it.", "green")


def _checked(file: Path, home: Home, store: Store) -> campaign_file.Checked:
    made = campaign_file.check(file, home, store, time.time())
    if made.contract is None:
        for mistake in made.mistakes:
            screen.errors.print(str(mistake), markup=False, soft_wrap=True)
        number = len(made.mistakes)
        raise ConfigError(
            f"{file.name} has {number} mistake{'s' if number > 1 else ''}",
            "correct them, then `tidegate campaign check` again",
        )
    return made


def _preview(made: campaign_file.Checked) -> None:
    contract = made.contract
    if contract is None:
        return
    for party in contract.parties:
        say(f"{party.name} ({party.role}): {party.data.name}, {party.data.rows:,} rows")
    for whose, used in screen.columns(contract).items():
        say(f"Columns of {whose} ({len(used)}): {', '.join(used) if used else 'none'}")
    for name, text in terms(contract).items():
        say(f"{name}: {text}")
    screen.steps(contract)
    screen.guards(contract)
    screen.learned(contract)
    for line in made.remarks:
        if line not in screen.attention(contract):
            say(f"attention: {line}", "yellow")


@campaign_app.command()
def propose(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The campaign file.")],
    yes: Yes = False,
) -> None:
    """Make the contract of a campaign file, sign it and send it to the other parties."""
    with opened(ctx) as (home, store):
        home.coordinator()
        sync(home, store)
        made = _checked(file, home, store)
        contract = made.contract
        if contract is None:
            return
        _preview(made)
        for other in store.campaigns():
            if other.name == contract.campaign and other.state not in FINAL:
                state = screen.state(store, other, home.name())
                raise ConfigError(
                    f"a campaign called {other.name} ({other.short}) is not over yet: it {state}",
                    f"`tidegate campaign cancel {other.short}`, or give this one another name",
                )
        if not yes:
            _confirm(f"Sign this contract for {home.name()} and send it?", "Nothing was signed.")
        sent = mail.online(home, lambda relay: mail.propose(home, store, relay, contract))
        say(f"Proposed {sent.name} ({sent.short}): {screen.state(store, sent, home.name())}", "green")
        _remind_to_be_up(home)


def find(store: Store, ref: str) -> Campaign:
    """A campaign by its file, its name or the first digits of its number."""
    path = Path(ref)
    return store.campaign(campaign_file.campaign_name(path) if path.suffix == ".toml" else ref)


@campaign_app.command()
def status(ctx: typer.Context, ref: CampaignRef, as_json: AsJson = False) -> None:
    """Say how far a campaign is."""
    with opened(ctx) as (home, store):
        sync(home, store)
        found = find(store, ref)
        if as_json:
            typer.echo(json.dumps(screen.status(store, found, home.name()), indent=2))
        else:
            console.print(screen.progress(store, found, home.name(), _last_event(store, found)))
        _check_not_stopped(home, store, found)


def _check_not_stopped(home: Home, store: Store, found: Campaign) -> None:
    """Raises for a campaign that ended without its result, so that programs and people see it in the exit status."""
    if found.state not in FINAL or found.state == "done":
        return
    text, _, hint = screen.state(store, found, home.name()).partition(". Hint: ")
    raise PolicyError(
        f"the campaign {found.name} ({found.short}) {text}",
        hint or "correct the cause, or talk to the other party; then propose it again",
    )


def _last_event(store: Store, found: Campaign) -> str:
    events = store.events(found.hash)
    return f"{events[-1].text} ({screen.ago(events[-1].at_s)})" if events else ""


@campaign_app.command()
def watch(ctx: typer.Context, ref: CampaignRef) -> None:
    """Follow a campaign until it is over. Ctrl-C stops watching, not the campaign."""
    with opened(ctx) as (home, store):
        found = find(store, ref)
        try:
            found = _follow(home, store, found)
        except KeyboardInterrupt:
            screen.errors.print(
                f"Stopped watching. The campaign goes on; `tidegate campaign watch {found.short}` looks again."
            )
            raise typer.Exit(130) from None
        _check_not_stopped(home, store, found)
        say(f"`tidegate party results {found.short} --export DIR` writes the report.")


POLL_S, SYNC_EVERY_S = 0.2, 3.0


def _follow(home: Home, store: Store, found: Campaign) -> Campaign:
    """Shows progress until the campaign is over: a live table on a terminal, lines elsewhere."""
    seen, synced_s, reachable = 0, 0.0, True
    with Live(console=console, refresh_per_second=5) if console.is_terminal else _plain_lines() as live:
        while True:
            if not is_up(home) and time.monotonic() - synced_s > SYNC_EVERY_S:
                # With the node up, it hears all of this first.
                reachable, synced_s = sync(home, store, quiet=True), time.monotonic()
            found = store.campaign(found.hash)
            for event in store.events(found.hash, seen):
                seen = event.id
                if live is None:
                    say(event.text)
            if live is not None:
                live.update(screen.progress(store, found, home.name(), _hint(home, store, found, reachable)))
            if found.state in FINAL:
                break
            time.sleep(POLL_S)
    if live is None and found.state == "done":
        say(f"{found.name}: done", screen.STATE_STYLE["done"])
    return found


@contextmanager
def _plain_lines() -> Iterator[None]:
    yield None


def _hint(home: Home, store: Store, found: Campaign, reachable: bool) -> str:
    if found.state in FINAL:
        return ""
    if not reachable:
        return "The coordinator cannot be reached; trying again."
    if not is_up(home) and not screen.missing_signatures(store, found):
        return "This party's node is not up: `tidegate party up` in another terminal."
    return _last_event(store, found)


@campaign_app.command()
def cancel(
    ctx: typer.Context,
    ref: CampaignRef,
    reason: Annotated[str, typer.Option(help="Why; the other parties read it.", show_default=False)] = "",
) -> None:
    """Stop a campaign. What was released stays released."""
    with opened(ctx) as (home, store):
        sync(home, store)
        found = find(store, ref)
        mail.online(home, lambda relay: mail.cancel(home, store, relay, found, reason))
        say(f"Cancelled {found.name} ({found.short})")
