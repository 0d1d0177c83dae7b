#!/bin/sh
# Plays the part of `axolotl node` for tests of the process runtime.
echo "$NODE_ID started as $AXOLOTL_INSTANCE with $1, leader $IS_LEADER, ports $PORT $HTTP_PORT $RPC_PORT"
trap 'touch "$DATA_DIR/stopped"; exit 0' TERM
if [ -f "$DATA_DIR/crash" ]; then exit 3; fi
echo "$IS_LEADER $PORT $HTTP_PORT $RPC_PORT" > "$DATA_DIR/settings"
while :; do sleep 0.02; done
