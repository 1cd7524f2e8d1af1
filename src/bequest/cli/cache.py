"""`bequest cache`: what is stored of frozen outputs, and how to be rid of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bequest.core.errors import BequestError


def add_cache(parser: ArgumentParser, verb: Callable[..., ArgumentParser]) -> None:
    """The commands within `bequest cache`.

    Args:
        parser: Of `bequest cache`.
        verb: Makes a command's parser from where it stands, its name, line and examples.
    """
    verbs = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    ls = verb(
        verbs,
        "ls",
        "list what is stored: one row for each source and preprocessing",
        "  bequest cache ls\n  bequest cache ls --cache /scratch/bequest\n\n"
        "from Python:\n  from bequest.engine.store import Store\n  Store().shelves()\n",
    )
    _add_folder(ls)
    ls.set_defaults(command=list_cache)
    add = verb(
        verbs,
        "add",
        "have features that lie in shards read as if they were stored",
        "  bequest cache add features/        a folder that `bequest features … --out features` has written\n\n"
        "from Python:\n  from bequest.engine.store import Store\n  Store().take(Path('features'))\n",
    )
    add.add_argument("folder", metavar="DIR", help="a local folder of shards; it is linked to and has to stay")
    _add_folder(add)
    add.set_defaults(command=add_features)
    clear = verb(
        verbs,
        "clear",
        "delete what is stored; what is needed again is computed again",
        "  bequest cache clear --older-than 7d            what no run has used for a week\n"
        "  bequest cache clear --key 3fa8                 one row of `bequest cache ls`\n"
        "  bequest cache clear --all --dry-run            say what would go\n\n"
        "from Python:\n  from bequest.engine.store import Store\n"
        "  Store().clear(older_than_s=7 * 86400, dry_run=True)\n",
    )
    clear.add_argument("--older-than", metavar="AGE", help="last used so long ago or longer: 30m, 12h, 7d")
    clear.add_argument("--key", metavar="PREFIX", help="whose key, as `bequest cache ls` lists it, begins so")
    clear.add_argument("--all", action="store_true", help="everything")
    clear.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    _add_folder(clear)
    clear.set_defaults(command=clear_cache)


def list_cache(options: Namespace) -> int:
    """`bequest cache ls`."""
    from bequest.report.units import plural, size

    store = _store(options)
    shelves = store.shelves()
    _show(shelves)
    total = sum(shelf.num_bytes for shelf in shelves)
    print(f"{plural(len(shelves), 'key')}, {size(total) if total else '0 B'} of at most {size(store.limit_bytes)}")
    print(f"Folder  {store.folder}   (another: --cache, $BEQUEST_CACHE)")
    print("Beyond the limit ($BEQUEST_CACHE_LIMIT) what is least recently used is deleted.")
    return 0


def add_features(options: Namespace) -> int:
    """`bequest cache add`."""
    from bequest.report.units import plural

    store = _store(options)
    count = store.take(Path(options.folder).expanduser())
    print(f"Linked {plural(count, 'sample')} of {options.folder} into {store.folder}.")
    return 0


def clear_cache(options: Namespace) -> int:
    """`bequest cache clear`."""
    from bequest.engine.quota import parse_age
    from bequest.report.units import plural, size

    if options.all == bool(options.older_than or options.key):
        raise BequestError(
            "`bequest cache clear` takes either --all, or --older-than AGE and --key PREFIX or one of them; e.g. "
            "bequest cache clear --older-than 7d."
        )
    age = parse_age(options.older_than) if options.older_than else 0.0
    chosen = _store(options).clear(older_than_s=age, key=options.key or "", dry_run=options.dry_run)
    if not chosen:
        print("Nothing to delete.")
        return 0
    _show(chosen)
    total = size(sum(shelf.num_bytes for shelf in chosen))
    print(f"{'Would delete' if options.dry_run else 'Deleted'} {plural(len(chosen), 'key')}, {total}.")
    return 0


def _add_folder(parser: ArgumentParser) -> None:
    parser.add_argument("--cache", metavar="DIR", help="the folder (default: $BEQUEST_CACHE, or the user's)")


def _store(options: Namespace) -> Any:
    from bequest.engine.store import Store

    return Store(Path(options.cache) if options.cache else None)


def _show(shelves: Any) -> None:
    from rich.console import Console

    from bequest.ui.cache import cache_table

    if shelves:
        Console().print(cache_table(shelves))
        print()
