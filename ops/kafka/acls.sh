#!/bin/sh
# Who may do what in Kafka. Again is harmless. Run it as somebody who may alter the cluster's ACLs:
#
#   KAFKA_ACLS="kafka-acls.sh --bootstrap-server kafka:9093 --command-config operator.properties" ./acls.sh
#
# TOPIC, DEAD_LETTERS and GROUP are those of the settings, where they are not the defaults.
set -euf

TOPIC=${TOPIC:-aforo.usage.v1}
DEAD_LETTERS=${DEAD_LETTERS:-aforo.usage.dlq.v1}
GROUP=${GROUP:-aforo-consume}

# In words of its own, since KAFKA_ACLS holds a command with its arguments.
allow() {
  # shellcheck disable=SC2086
  ${KAFKA_ACLS:?say how to run kafka-acls.sh} --add "$@" >/dev/null
}

# Usage in; what can't be read or written, aside. Write implies Describe, and idempotent producers.
allow --allow-principal User:aforo-ship --allow-principal User:aforo-ingest \
  --operation Write --topic "$TOPIC" --topic "$DEAD_LETTERS"

# Usage out, as a member of one group. It writes no usage.
allow --allow-principal User:aforo-consume --operation Read --topic "$TOPIC" --group "$GROUP"
allow --allow-principal User:aforo-consume --operation Write --topic "$DEAD_LETTERS"

# People: aforo-meter dlq, events, replay, import, completeness --fill; and aforo-admin doctor, which
# looks at how long records are kept.
allow --allow-principal User:aforo-tools \
  --operation Read --operation Write --operation DescribeConfigs \
  --topic "$TOPIC" --topic "$DEAD_LETTERS"
