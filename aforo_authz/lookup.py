"""All of a caller in one round trip: Redis follows the credential to its tenant itself.

Only where one server holds every key: in a cluster a script may read no keys but those of its slot.
"""

import hashlib

from aforo_authz.read_model import is_credential

# KEYS: a credential. Answers {credential, policy, margin}; the latter two only if there is a
# credential. tenant_id is the first field of its message: tag 0x0a, a length below 128, the text.
LOOKUP = """
local credential = redis.call('GET', KEYS[1])
if not credential or credential:byte(1) ~= 10 or credential:byte(2) > 127 then
  return {credential}
end
local prefix = 'aforo:v1:{' .. credential:sub(3, 2 + credential:byte(2)) .. '}:'
return {credential, redis.call('GET', prefix .. 'policy'), redis.call('GET', prefix .. 'margin')}
"""
LOOKUP_SHA = hashlib.sha1(LOOKUP.encode(), usedforsecurity=False).hexdigest()


def get(key: str) -> tuple[str | int, ...]:
    return ("GET", key)


def whole_caller(key: str, *, taught: bool) -> tuple[str | int, ...]:
    """Return what asks for a key and, if it is a credential, for its tenant's values as well.

    Args:
        key: Any of the read model.
        taught: Does Redis know the script? If not, asking teaches it.
    """
    if not is_credential(key):
        return get(key)
    return ("EVALSHA", LOOKUP_SHA, 1, key) if taught else ("EVAL", LOOKUP, 1, key)
