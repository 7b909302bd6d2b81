"""`usage send`: sends the rows that no process has sent yet to the databases that usage is forwarded to.

JSON: `targets` (`name`, `sent` (rows), `left` (rows that it does not have, or null if not known), `error`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from hfs_providers.cli import output


def send(
    timeout: Annotated[
        float, typer.Option(help="The longest time to wait for each database, in seconds.", min=0.1)
    ] = 60.0,
    as_json: output.JsonOption = False,
) -> None:
    """Send the rows of the local file that a database does not have yet. Exit code 1 if any are left."""
    from hfs_providers.core.settings import Settings
    from hfs_providers.core.storage_status import storage_status
    from hfs_providers.usage.forwarding.sending import send as send_to_all

    env = Settings.load().env
    if not storage_status(env).targets:
        output.fail("there is no database to send usage to", "Set HFS_FORWARD_DB to its URL (docs/databases.md)")
    sent = send_to_all(env, timeout)
    if as_json:
        records = [{"name": each.name, "sent": each.rows, "left": each.left, "error": each.error} for each in sent]
        output.print_json({"targets": records})
    else:
        for each in sent:
            left = f"; {each.left:,} left" if each.left else ""
            print(f"{each.rows:,} rows sent to {each.name}{left}")
        if not sent:
            print("No usage has been kept yet: there is nothing to send.")
    late = [each for each in sent if each.error or each.left]
    if late:
        output.fail(late[0].error or f"{late[0].name} does not have all rows", "See: hfs-providers status")
