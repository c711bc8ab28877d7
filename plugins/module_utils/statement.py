# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One SQL statement of a migration file, as it travels from the controller to the database's host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """One SQL statement of a file.

    ``text`` goes from its first token to its last one: no comments or blanks around it, no ``;``.
    ``line`` and ``column`` (1-based) are those of the first token in the file. ``copy_data`` holds
    the lines behind ``COPY ... FROM stdin`` with their newlines and without the closing ``\\.``;
    it is None for every other statement.
    """

    text: str
    line: int
    column: int
    copy_data: str | None = None
