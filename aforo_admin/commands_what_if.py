"""`aforo-admin what-if`: recorded usage under other prices, floors or models, beside the record."""

import argparse
import getpass
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aforo_admin import commands_control, settings, simulation_text, what_if_flags
from aforo_admin.catalog_yaml import read_file
from aforo_admin.domain.scenario import Scenario
from aforo_admin.domain.scenario_catalog import NO_DRAFTS, Drafts
from aforo_admin.domain.simulate import Comparison
from aforo_admin.faults import CatalogError
from aforo_admin.ledger_periods import TooMuchUsageError
from aforo_admin.ledger_reading import LedgerUnreadableError
from aforo_admin.scenario_yaml import read_scenario_file, scenario_of
from aforo_admin.simulating import Ground, simulate, untold
from aforo_admin.yaml_writing import node_of

OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
PROGRESS_EVERY: Final = 500

LEDGER_VARIABLE: Final = settings.variable("ledger_url")
EXAMPLES: Final = """examples:
  aforo-admin what-if --provider-cost openai=+20%            this period, had OpenAI cost more
  aforo-admin what-if --provider-cost 'openai/gpt-4o:llm.output_tokens=8.00/1M'
  aforo-admin what-if --price pro=+5% --fee pro=550          what we charge
  aforo-admin what-if --threshold block=5% --threshold tenant:acme/block=-10%
  aforo-admin what-if --model gpt-4o=gpt-4o-mini             all of its usage, on another model
  aforo-admin what-if --growth +30% --growth feature:chat=+50%
  aforo-admin what-if --draft pro=3 --period 2026-11         a version that is not published yet
  aforo-admin what-if --scenario spring.yaml --json          as written by hand
  aforo-admin what-if --saved spring                         as saved in the database
  aforo-admin what-if --catalog catalog.yaml --ledger-url sqlite:////var/lib/aforo/ledger.db

Three columns: what was recorded; the same usage under the changes, exactly; and what the gateway
would have made of that: calls that it would have refused cost nothing, calls that it would not have
refused cost the tenant's average, an estimate. docs/what-if.md says how each is worked out.
With --save it is kept for the page /admin/what-if/; else nothing is written.
Exit codes: 0 ok, 1 the ledger or the database does not answer, 2 wrong usage, settings, catalog or
scenario.
"""
REPEATED: Final = (
    ("--provider-cost", "WHAT=CHANGE", "what we pay: PROVIDER[/MODEL][:METER]=+20%% or =2.50/1M"),
    ("--price", "PLAN=CHANGE", "what a plan charges for usage: PLAN[/COMPONENT]=+5%% or =0.02/1k"),
    ("--fee", "PLAN=CHANGE", "a plan's committed fee: PLAN=+10%% or =550"),
    ("--threshold", "NAME=SHARE", "[plan:ID/|tenant:ID/]warn|throttle|block|hysteresis=5%%"),
    ("--model", "A=B", "usage of model A at B's prices; PROVIDER/MODEL where it matters"),
    ("--growth", "[WHOSE=]CHANGE", "usage: +30%%, tenant:ID=+30%%, feature:ID=-10%%"),
    ("--draft", "PLAN=VERSION", "a version of a plan instead of the one in force"),
    ("--tenant", "ID", "of this tenant only"),
)


def add(commands: Any) -> None:  # noqa: ANN401 - argparse has no public type for it.
    """Add the command to the others."""
    command = commands.add_parser(
        "what-if", help="recorded usage under other prices, floors or models", epilog=EXAMPLES
    )
    for name, form, told in REPEATED:
        command.add_argument(
            name, metavar=form, action="append", default=[], help=f"{told}; repeatable"
        )
    command.add_argument("--period", metavar="MONTH", default="", help="like 2026-11")
    command.add_argument(
        "--scenario", metavar="FILE", type=Path, help="in YAML or JSON; options add to it"
    )
    command.add_argument("--saved", metavar="NAME", help="one of the database; options add to it")
    command.add_argument("--save", metavar="NAME", help="keep it in the database, with its sums")
    command.add_argument(
        "--catalog", metavar="FILE", type=Path, help="default: that of the database"
    )
    command.add_argument("--ledger-url", metavar="URL", help=f"default: {LEDGER_VARIABLE}")
    command.add_argument(
        "--show", type=int, default=simulation_text.TENANTS_SHOWN, help="how many tenants"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        if options.catalog is not None:
            return _with_file(options)
        return commands_control.with_database(lambda: _with_database(options))
    except CatalogError as error:
        print(error, file=sys.stderr)  # noqa: T201 - begins with the file, as editors want it.
        return MISUSED
    except what_if_flags.LinesError as error:
        for each in error.errors:
            _complain(f"--{each.name.replace('_', '-')} {each}", MISUSED)
        return MISUSED
    except ValueError as error:
        return _complain(error, MISUSED)
    except (LedgerUnreadableError, TooMuchUsageError) as error:
        return _complain(error, FAILED)


def _with_file(options: argparse.Namespace) -> int:
    for name in ("draft", "saved", "save"):
        if getattr(options, name):
            raise ValueError(f"--{name}: that is in the database; leave out --catalog")
    catalog = read_file(options.catalog)
    ground = Ground(
        catalog=catalog, ledger_url=_ledger_url(options), now=_now(), place=options.catalog
    )
    _tell(options, _simulate(ground, _scenario(options, ground), NO_DRAFTS))
    return OK


def _with_database(options: argparse.Namespace) -> int:
    # Models can be loaded only once Django is set up.
    from aforo_admin import scenario_drafts, scenario_store, store  # noqa: PLC0415
    from aforo_admin.control.recording import Source  # noqa: PLC0415

    catalog = store.load_catalog().catalog
    ground = Ground(catalog=catalog, ledger_url=_ledger_url(options), now=_now())
    scenario = _scenario(options, ground)
    if options.saved:
        scenario = scenario_store.load(options.saved).with_more(scenario)
    found = _simulate(ground, scenario, scenario_drafts.drafts_of(scenario))
    if options.save:
        author = getpass.getuser()
        scenario_store.save(options.save, scenario, found, author=author, source=Source.SHELL)
    _tell(options, found)
    return OK


def _scenario(options: argparse.Namespace, ground: Ground) -> Scenario:
    lines = {name: getattr(options, name) for name in what_if_flags.LISTS}
    written = what_if_flags.written(lines) | ({"tenants": options.tenant} if options.tenant else {})
    if options.period:
        written["month"] = options.period
    said = scenario_of(node_of(written), ground.catalog)
    if options.scenario is None:
        return said
    return read_scenario_file(options.scenario, ground.catalog).with_more(said)


def _simulate(ground: Ground, scenario: Scenario, drafts: Drafts) -> Comparison:
    progress = _progress if sys.stderr.isatty() else untold
    return simulate(scenario, ground, drafts=drafts, progress=progress)


def _tell(options: argparse.Namespace, found: Comparison) -> None:
    if options.json:
        print(simulation_text.comparison_json(found))  # noqa: T201 - what a command is for.
    else:
        print(simulation_text.comparison_text(found, shown=max(0, options.show)))  # noqa: T201


def _progress(done: int, of_all: int) -> None:
    if done % PROGRESS_EVERY == 0 or done == of_all:
        end = "\n" if done == of_all else ""
        print(f"\r{done:,} of {of_all:,} periods", end=end, file=sys.stderr)  # noqa: T201


def _ledger_url(options: argparse.Namespace) -> str:
    url: str = options.ledger_url or os.environ.get(LEDGER_VARIABLE, "")
    if not url:
        raise ValueError(f"which ledger? say --ledger-url URL, or set {LEDGER_VARIABLE}")
    return url


def _now() -> datetime:
    return datetime.now(UTC)


def _complain(what: object, code: int) -> int:
    print(f"aforo-admin: {what}", file=sys.stderr)  # noqa: T201
    return code
