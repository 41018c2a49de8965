"""How a command says that Redis can't be asked: where it was looked for, why not, what to do."""

from redis.asyncio import Redis
from redis.exceptions import InvalidResponse

from aforo_meter.command_arguments import CommandError


def address_of(redis: Redis) -> str:
    """Return where a Redis is looked for, without its password."""
    asked = redis.connection_pool.connection_kwargs
    return str(asked.get("path") or f"{asked.get('host', 'localhost')}:{asked.get('port', 6379)}")


def redis_away(address: str, error: Exception) -> CommandError:
    """Return the complaint about a Redis that does not answer, or not as one."""
    if isinstance(error, InvalidResponse):
        return CommandError(f"what answers at {address} is no Redis; check --redis-url")
    cause = str(error).rstrip(".") or type(error).__name__
    return CommandError(f"redis at {address} does not answer ({cause}); check --redis-url")
