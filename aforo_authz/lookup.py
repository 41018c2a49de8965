"""All of a caller in one round trip: Redis follows the credential to its tenant itself.

Only where one server holds every key: in a cluster a script may read no keys but those of its slot.
"""

import hashlib

# ARGV: a credential's key. Not KEYS: Redis lets a script name there only what its caller may write.
# Answers {sync's mark, credential, policy, margin}; the latter two only if there is a credential.
# All are of one moment: where the mark is there, what is absent is absent.
# tenant_id is the first field of its message: tag 0x0a, a length below 128, the text.
LOOKUP = """
local mark = redis.call('GET', 'aforo:v1:sync')
local credential = redis.call('GET', ARGV[1])
if not credential or credential:byte(1) ~= 10 or credential:byte(2) > 127 then
  return {mark, credential}
end
local prefix = 'aforo:v1:{' .. credential:sub(3, 2 + credential:byte(2)) .. '}:'
local policy, margin = redis.call('GET', prefix .. 'policy'), redis.call('GET', prefix .. 'margin')
return {mark, credential, policy, margin}
"""
LOOKUP_SHA = hashlib.sha1(LOOKUP.encode(), usedforsecurity=False).hexdigest()
