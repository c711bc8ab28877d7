# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Whether a password is the one of a verifier that PostgreSQL keeps. Pure.

RFC 5802 (SCRAM), RFC 7677 (SCRAM-SHA-256) and RFC 4013 (SASLprep); the verifier's form is that of
pg_authid.rolpassword (PostgreSQL documentation, catalog pg_authid).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata

_VERIFIER = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):[A-Za-z0-9+/=]+")
_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def is_of(verifier: str | None, password: str) -> bool:
    """Whether ``password`` logs in where this verifier is kept; False for no verifier and for one of another kind."""
    found = _VERIFIER.fullmatch(verifier or "")
    if not found:
        return False
    iterations, salt, stored = found.groups()
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), base64.b64decode(stored))


def prepared(password: str) -> bytes:
    """The password as it is hashed: normalized by SASLprep, or as it is where SASLprep does not allow it.

    That fallback is PostgreSQL's (src/common/scram-common.c).
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(one) else "" if stringprep.in_table_b1(one) else one for one in password
    )
    normal = unicodedata.normalize("NFKC", mapped)
    if not normal or any(table(one) for one in normal for table in _PROHIBITED) or not _directed(normal):
        return password.encode()
    return normal.encode()


def _directed(text: str) -> bool:
    """RFC 3454, section 6: text that runs from right to left begins and ends so, and has nothing of the other kind."""
    if not any(stringprep.in_table_d1(one) for one in text):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(stringprep.in_table_d2(one) for one in text)
