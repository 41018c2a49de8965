"""How a command says that Redis can't be asked: where it was looked for, why not, what to do."""

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import InvalidResponse

from aforo_meter.command_arguments import CommandError


def address_of(redis: Redis | RedisCluster) -> str:
    """Return where a Redis is looked for, without its password."""
    if isinstance(redis, RedisCluster):
        return ",".join(node.name for node in redis.nodes_manager.startup_nodes.values())
    pool = redis.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return f"{pool.service_name}, by its Sentinels,"
    asked = pool.connection_kwargs
    return str(asked.get("path") or f"{asked.get('host', 'localhost')}:{asked.get('port', 6379)}")


def redis_away(address: str, error: Exception) -> CommandError:
    """Return the complaint about a Redis that does not answer, or not as one."""
    if isinstance(error, InvalidResponse):
        return CommandError(f"what answers at {address} is no Redis; check --redis-url")
    cause = str(error).rstrip(".") or type(error).__name__
    return CommandError(f"redis at {address} does not answer ({cause}); check --redis-url")
